"""The U-Net of Ho et al. 2020 (appendix B) in plain PyTorch, 1.13 or newer, from the configuration that Phoenix takes.

Read from it: height, width, inChannels, blockOutChannels, layersPerBlock, attention, normGroups, normEps, dropout. The rest is as in the
paper: one attention head of full width, no class conditioning, right and bottom padding before a stride-2 convolution.
"""
import math

import torch
from torch import nn
from torch.nn import functional as F


def time_embedding(t, width):
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000) / (half - 1)))
    angles = t.float()[:, None] * frequencies[None]
    return torch.cat([angles.sin(), angles.cos()], 1)


class Residual(nn.Module):
    def __init__(self, c_in, c_out, time_width, groups, eps, dropout):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, eps=eps)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(time_width, c_out)
        self.norm2 = nn.GroupNorm(groups, c_out, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x, time):
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(time)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.skip(x) + h


class Attention(nn.Module):
    fused = False  # scaled_dot_product_attention (PyTorch 2) instead of two matrix products and a softmax

    def __init__(self, channels, groups, eps):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=eps)
        self.q, self.k, self.v, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x, _time):
        n, c, height, width = x.shape
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if Attention.fused:
            o = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        else:
            o = torch.softmax(torch.bmm(q, k.transpose(1, 2)) * c**-0.5, -1) @ v
        return x + self.out(o.transpose(1, 2).reshape(n, c, height, width))


class Down(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x, _time):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, _time):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class UNet(nn.Module):
    def __init__(self, config):
        super().__init__()
        widths, layers, attended = config["blockOutChannels"], config["layersPerBlock"], config["attention"]
        last = len(widths) - 1
        for side in (config["height"], config["width"]):
            if side % 2**last:
                raise ValueError("the peer takes sides that halve evenly %d times, not %d" % (last, side))
        self.base = widths[0]
        time_width = 4 * self.base
        norm = (config["normGroups"], config["normEps"])
        residual = lambda c_in, c_out: Residual(c_in, c_out, time_width, *norm, config["dropout"])
        self.time1 = nn.Linear(self.base, time_width)
        self.time2 = nn.Linear(time_width, time_width)
        self.conv_in = nn.Conv2d(config["inChannels"], self.base, 3, padding=1)

        # Each entry of down and up is what lies between two skip connections.
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, c = [self.base], self.base
        for level, width in enumerate(widths):
            for _ in range(layers):
                self.down.append(nn.ModuleList([residual(c, width)] + ([Attention(width, *norm)] if attended[level] else [])))
                c = width
                skips.append(c)
            if level < last:
                self.down.append(nn.ModuleList([Down(c)]))
                skips.append(c)
        self.middle = nn.ModuleList([residual(c, c), Attention(c, *norm), residual(c, c)])
        for level in reversed(range(last + 1)):
            for layer in range(layers + 1):
                block = [residual(c + skips.pop(), widths[level])]
                c = widths[level]
                if attended[level]:
                    block.append(Attention(c, *norm))
                if layer == layers and level > 0:
                    block.append(Up(c))
                self.up.append(nn.ModuleList(block))
        self.norm_out = nn.GroupNorm(norm[0], c, eps=norm[1])
        self.conv_out = nn.Conv2d(c, config["inChannels"], 3, padding=1)

    def forward(self, x, t):
        time = F.silu(self.time2(F.silu(self.time1(time_embedding(t, self.base).to(self.time1.weight.dtype)))))
        x = self.conv_in(x)
        skips = [x]
        for block in self.down:
            for layer in block:
                x = layer(x, time)
            skips.append(x)
        for layer in self.middle:
            x = layer(x, time)
        for block in self.up:
            x = torch.cat([x, skips.pop()], 1)
            for layer in block:
                x = layer(x, time)
        return self.conv_out(F.silu(self.norm_out(x)))
