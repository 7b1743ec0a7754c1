"""Mean image and RGB covariance of a training set, exactly: integer sums, so that order and threads change nothing."""

import numpy as np

from data.dataset import Colour


class Statistics:
    """Sums over uint8 images (N, C, H, W); `a + b` are those of both. All sums are exact integers.

    count; total int64 (C, H, W), the sum of the images; products int64 (C, C), sum over images and pixels of x xᵀ.
    """

    def __init__(self, images=None, count=0, total=0, products=0):
        self.count, self.total, self.products = count, total, products
        if images is not None:
            channels = images.shape[1]
            self.count = len(images)
            self.total = images.sum(axis=0, dtype=np.int64)
            self.products = np.zeros((channels, channels), np.int64)
            for image in images if channels > 1 else ():  # a grey set has no use for them
                x = image.reshape(channels, -1).astype(np.float64)
                # einsum, not @: workers run side by side, and BLAS would start threads in each of them.
                self.products += np.einsum("ip,jp->ij", x, x).astype(np.int64)  # exact: 255²·H·W is far below 2⁵³

    def __add__(self, other):
        return Statistics(None, self.count + other.count, self.total + other.total, self.products + other.products)

    def mean(self):
        """The mean image, float32 (C, H, W), 0..255."""
        return (self.total / self.count).astype(np.float32)

    def colour(self):
        """Principal components of the RGB values of all pixels: Colour, or None for sets without three channels.

        std: square roots of the eigenvalues of the covariance (divided by the number of pixels), descending.
        vectors: the eigenvectors as columns, each with its largest component positive.
        """
        if len(self.products) != 3:
            return None
        n = self.count * self.total[0].size
        sums = [int(s) for s in self.total.sum(axis=(1, 2))]
        # In Python's integers: n·Σxy − Σx·Σy loses digits in floating point.
        covariance = [[(n * int(self.products[i, j]) - sums[i] * sums[j]) / n**2 for j in range(3)] for i in range(3)]
        values, vectors = np.linalg.eigh(np.array(covariance))
        values, vectors = values[::-1], vectors[:, ::-1]
        largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(3)]
        return Colour(np.sqrt(np.maximum(values, 0)), np.ascontiguousarray(vectors * np.sign(largest)))
