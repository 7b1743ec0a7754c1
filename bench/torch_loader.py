"""The peer of `bench.loader`: PyTorch's DataLoader over the same file, as one would write it who knows it well.

Pixels are read as ours are (`Split.read`, one system call an image), which is quicker than through h5py; the crop comes before
whatever costs more per pixel. Batches are float32 or uint8 (N, C, H, W).
"""
import io

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset


class Images(Dataset):
    """One image and its label at a time; `case` as in bench.loader."""

    def __init__(self, data, case, crop):
        self.split, self.case, self.crop = data.split("train"), case, crop
        self.mean = torch.from_numpy(data.mean)
        self.std, self.vectors = (torch.from_numpy(each).float() for each in data.pca)

    def __len__(self):
        return len(self.split)

    def __getitem__(self, index):
        height, width = self.split.image_shape[1:]
        top, left = (int(torch.randint(size - self.crop + 1, ())) for size in (height, width))
        rows, columns = slice(top, top + self.crop), slice(left, left + self.crop)
        mirror = bool(torch.randint(2, ()))
        if self.case.startswith("jpeg"):
            image = self._decode(index, (left, top, left + self.crop, top + self.crop))
        else:
            image = torch.from_numpy(self.split.read([index])[0])[:, rows, columns]
        if not self.case.endswith("uint8"):
            image = image.float() - self.mean[:, rows, columns]
            image += (self.vectors @ (0.1 * torch.randn(3) * self.std))[:, None, None]
        return image.flip(-1) if mirror else image.contiguous(), int(self.split.labels[index])

    def _decode(self, index, box):
        pixels = self.split.pixels
        start, stop = pixels.places[index:index + 2].tolist()
        stored = bytearray(stop - start)
        pixels.read_bytes(start, memoryview(stored))
        with Image.open(io.BytesIO(stored)) as image:
            cut = image.crop(box)
            return torch.frombuffer(bytearray(cut.tobytes()), dtype=torch.uint8).view(self.crop, self.crop, -1).permute(2, 0, 1)


def loader(data, case, *, batch, crop, workers):
    """A DataLoader whose worker processes stay from epoch to epoch."""
    return DataLoader(Images(data, case, crop), batch_size=batch, shuffle=True, drop_last=True, num_workers=workers,
                      persistent_workers=True)
