"""The paper's Table 1 question: eq. 6 against eq. 11 at 10, 20 and 50 evaluations of the network."""
