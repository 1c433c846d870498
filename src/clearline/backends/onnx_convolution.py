"""Convolutions as ONNX nodes: matrix products of gathered taps, and overlap-add."""

import numpy as np

from clearline.backends.onnx_graph import Edge
from clearline.backends.onnx_products import ProductOps
from clearline.ops import Weight


class ConvolutionOps(ProductOps):
    """See `clearline.ops.Ops` for what each operation means."""

    def conv1d(self, x: Edge, weight: Weight, stride: int, dilation: int = 1) -> Edge:
        # A matrix product of gathered taps: ONNX Runtime's own Conv rounds differently with every thread count.
        _, channels, kernel = weight.shape
        batch = x.shape[0]
        rows = (x.shape[1] - dilation * (kernel - 1) - 1) // stride + 1
        if batch == dilation == 1 and self.windowed(weight, "taps"):
            return self.windows(x, (batch, rows), stride * channels, weight, "taps")
        if kernel == 1 and stride == 1:
            taps = x
        elif kernel == 2 * stride and dilation == 1 and x.shape[1] == (rows + 1) * stride:
            blocks = self.reshape(x, (batch, rows + 1, stride * channels))
            taps = self.concat([self.slice(blocks, 1, 0, rows), self.slice(blocks, 1, 1, rows + 1)], 2)
        else:
            parts = [self._stride_slice(x, j * dilation, rows, stride) for j in range(kernel)]
            taps = self.concat(parts, 2)
        return self.product(taps, weight, "taps")

    def _stride_slice(self, x: Edge, start: int, rows: int, stride: int) -> Edge:
        bounds = [self.constant(np.array([i], np.int64)) for i in (start, start + (rows - 1) * stride + 1, 1, stride)]
        return self.emit("Slice", [x, *bounds], (x.shape[0], rows, x.shape[2]), x.ids)

    def conv_transpose1d(self, x: Edge, weight: Weight, stride: int) -> Edge:
        # A matrix product, then overlap-add of blocks of `stride` rows.
        channels, per_group, kernel = weight.shape
        batch, rows, _ = x.shape
        blocks = -(-kernel // stride)
        if batch == 1 and kernel == 2 * stride and (per_group > 1 or channels == 1) and self.windowed(weight, "overlap"):
            # Each block of `stride` outputs comes from the input before it and the one at it.
            around = self._pad(x, 1, 1, 1)
            y = self.windows(around, (batch, rows + 1), channels, weight, "overlap")
            return self.reshape(y, (batch, (rows + 1) * stride, per_group))
        if per_group == 1 and channels > 1:
            out = channels
            taps = self.reshape(x, (batch, rows, 1, out)) * self.weight(weight, "channelwise")
        else:
            out = per_group
            taps = self.product(x, weight, "spread")
        taps = self.reshape(taps, (batch, rows, kernel * out))
        if kernel % stride:
            taps = self._pad(taps, 2, 0, (blocks * stride - kernel) * out)
        parts = self.split(taps, [stride * out] * blocks, 2)
        total = self._pad(parts[0], 1, 0, blocks - 1)
        for i, part in enumerate(parts[1:], 1):
            total = total + self._pad(part, 1, i, blocks - 1 - i)
        y = self.reshape(total, (batch, (rows + blocks - 1) * stride, out))
        length = (rows - 1) * stride + kernel
        return y if y.shape[1] == length else self.slice(y, 1, 0, length)

    def _pad(self, x: Edge, axis: int, before: int, after: int) -> Edge:
        if before == after == 0:
            return x
        shape = list(x.shape)
        shape[axis] += before + after
        pads = self.constant(np.array([before, after], np.int64))
        return self.emit("Pad", [x, pads, None, self.constant(np.array([axis], np.int64))], shape, x.ids)
