"""Two small feature networks, as a user of "file.py:function" would write them."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.ModuleList([nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3, stride=2), nn.Conv2d(8, 8, 3)])

    def features(self, image):
        found, x = [], image
        for layer in self.layers:
            x = torch.tanh(layer(x))
            found.append(x)
        return found


def optimised() -> Net:
    return Net(0)


def measuring() -> Net:
    return Net(1)
