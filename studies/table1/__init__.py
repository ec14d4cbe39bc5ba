"""The paper's Table 1 question on the embedded model: the committed figures, and the page written from them."""
