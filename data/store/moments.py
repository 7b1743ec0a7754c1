"""Mean image and RGB covariance of a training set, exactly:
integer sums, so that order and threads change nothing."""

import numpy as np

from data.store.dataset import Colour

# images of 255 that add up in 16 bits; products of 255² that add up in a float32 without rounding
BLOCK = 256


class Statistics:
    """Sums over uint8 images (N, C, H, W); `a + b` are those of both. All sums are exact integers.

    count; total int64 (C, H, W), the sum of the images;
    products int64 (C, C), sum over images and pixels of x xᵀ.
    """

    def __init__(self, images=None, count=0, total=0, products=0):
        self.count, self.total, self.products = count, total, products
        if images is not None:
            channels = images.shape[1]
            self.count = len(images)
            self.total = np.zeros(images.shape[1:], np.int64)
            for start in range(0, len(images), BLOCK):
                block = np.zeros(images.shape[1:], np.uint16)
                for image in images[start:start + BLOCK]:
                    block += image
                self.total += block
            self.products = np.zeros((channels, channels), np.int64)
            for image in images if channels > 1 else ():  # a grey set has no use for them
                self.products += _products(image)

    def __add__(self, other):
        return Statistics(None, self.count + other.count, self.total + other.total,
                          self.products + other.products)

    def mean(self):
        """The mean image, float32 (C, H, W), 0..255."""
        return (self.total / self.count).astype(np.float32)

    def colour(self):
        """Principal components of the RGB values of all pixels:
        Colour, or None for sets without three channels.

        std: square roots of the eigenvalues of the covariance (divided by the number of pixels), descending.
        vectors: the eigenvectors as columns, each with its largest component positive.
        """
        if len(self.products) != 3:
            return None
        n = self.count * self.total[0].size
        sums = [int(s) for s in self.total.sum(axis=(1, 2))]
        # In Python's integers: n·Σxy − Σx·Σy loses digits in floating point.
        covariance = [[(n * int(self.products[i, j]) - sums[i] * sums[j]) / n**2 for j in range(3)]
                      for i in range(3)]
        values, vectors = np.linalg.eigh(np.array(covariance))
        values, vectors = values[::-1], vectors[:, ::-1]
        largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(3)]
        return Colour(np.sqrt(np.maximum(values, 0)), np.ascontiguousarray(vectors * np.sign(largest)))


def _products(image):
    """Σ over pixels of x xᵀ, int64 (C, C), of an image uint8 (C, H, W):
    row by row, which float32 adds up exactly."""
    x = image.astype(np.float32 if image.shape[2] <= BLOCK else np.float64)
    products = np.empty((len(x), len(x)), np.int64)
    for i in range(len(x)):
        for j in range(i + 1):
            products[i, j] = products[j, i] = np.vecdot(x[i], x[j]).sum(dtype=np.float64)
    return products
