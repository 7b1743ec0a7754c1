"""Download small public data sets from where their authors publish them, resumed and checked."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections import namedtuple

from tqdm import tqdm

from data.errors import DataError

Source = namedtuple("Source", "page address files")
Source.__doc__ = """A data set: the authors' page, the address below which they publish its files, and these:
{name: MD5}."""

# Addresses and MD5 sums as the pages give them.
# They tell a whole file from a damaged one; they do not prove who sent it.
SOURCES = {
    "fashion-mnist": Source(
        "https://github.com/zalandoresearch/fashion-mnist",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310"}),
    "cifar-10": Source(
        "https://www.cs.toronto.edu/~kriz/cifar.html", "https://www.cs.toronto.edu/~kriz/", {
            "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"}),
}
TIMEOUT, BLOCK = 30, 1 << 16  # seconds of silence; bytes


def fetch(name, folder, address=None):
    """Have all files of the data set `name` in `folder`, whole.
    Returns how many were downloaded; the others were there.

    A download that breaks off leaves NAME.part, from which the next call goes on. address: where else to get
    the files. Raises DataError, saying how to go on, for whatever goes wrong;
    no file of the folder is ever replaced.
    """
    if name not in SOURCES:
        raise DataError(f"{name}: no such data set to fetch; there are {', '.join(SOURCES)}")
    page, official, files = SOURCES[name]
    address = (address or official).rstrip("/") + "/"
    if not address.startswith(("http://", "https://")):
        raise DataError(f"{address}: is not an address that begins with http:// or https://")
    try:
        os.makedirs(folder, exist_ok=True)
        missing = []
        for file, md5 in files.items():
            path = os.path.join(folder, file)
            if not os.path.exists(path):
                missing.append((file, path, md5))
            elif (found := _md5(path)) != md5:
                raise DataError(f"{path}: is there, but is not the published file: its MD5 is {found}, not "
                                f"{md5}; move it away and run this again")
        for file, path, md5 in missing:
            by_hand = f"or put {file} of {page} into {folder} by hand and run this again, which checks it"
            _download(address + file, path, md5, by_hand)
    except OSError as error:  # of the disk; those of the network have become DataErrors
        raise DataError(f"{folder}: cannot be written: {error.strerror}; make room or choose another, then "
                        "run this again: it goes on where it stopped") from error
    return len(missing)


def _md5(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _download(url, path, md5, by_hand):
    """Bring `url` to `path` by way of path.part, going on with what that holds.
    It gets its name only when its MD5 is right."""
    part = path + ".part"
    file = open(part, "ab")
    try:
        with file:
            _receive(url, file, by_hand)
            file.flush()
            os.fsync(file.fileno())
    finally:
        if os.path.getsize(part) == 0:
            os.remove(part)
    if (found := _md5(part)) != md5:
        os.remove(part)
        raise DataError(f"{url}: what came has MD5 {found}, not {md5} as published, and was deleted; run "
                        f"this again, {by_hand}")
    os.rename(part, path)


def _receive(url, file, by_hand):
    """Append what is missing of `url` to the open file;
    if the server cannot begin there, write all of it anew."""
    done = file.tell()
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:
            return  # there is nothing after what is there: it is all of the file
        raise DataError(f"{url}: the server says {error.code} {error.reason}; try again later, with --from "
                        f"ADDRESS of a mirror, {by_hand}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: an address that is none
        raise DataError(f"{url}: cannot be reached ({getattr(error, 'reason', None) or error}); run this "
                        f"again when there is a network, {by_hand}") from error
    with response:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            done = file.truncate(0)  # the server sends all of it
        length = response.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        with tqdm(desc=os.path.basename(url), total=total, initial=done, unit="B",
                  unit_scale=True) as progress:
            for block in _blocks(response, url, by_hand):
                file.write(block)
                progress.update(len(block))
                done += len(block)
    if total is not None and done < total:
        raise _broken(url, f"closed after {done:,} of {total:,} bytes", by_hand)


def _blocks(response, url, by_hand):
    while True:
        try:
            block = response.read(BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise _broken(url, error, by_hand) from error
        if not block:
            return
        yield block


def _broken(url, reason, by_hand):
    return DataError(f"{url}: the connection broke ({reason}); run this again, and it goes on where it "
                     f"stopped, {by_hand}")
