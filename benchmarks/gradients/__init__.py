"""What every gradient engine costs and how wrong it is, beside torchdiffeq, torchode, checkpoints and plain backprop.

    python -m benchmarks.gradients              # measures what is not there yet, then writes docs/gradients.md
    python -m benchmarks.gradients --quick      # prints the table at few steps; writes nothing
    python -m benchmarks.gradients --page       # writes the page again from benchmarks/results/gradients/

One file a section.  `cost`, `errors`, `budget`, `compiled` and `guided` ask the embedded model, `empty` a network that
does nothing, `analytic` a Gaussian mixture whose denoiser is known in closed form, and `equal_time` says what a user
gets for the time.  A section is resumed where it was killed: its JSON is written after every row.
"""
