"""The calling convention of CUDA's functions: C callbacks into Python functions that return nothing, or raise CudaError."""
import ctypes
import functools
import traceback

import numpy as np

from tests.softcuda.errors import NAMES, CudaError


class Functions(dict):
    """{name of a C function: its callback}, of one library. Used as a decorator:

        @F("cudaMalloc", c_void_p, c_size_t)
        def malloc(out, size): ...

    The C function returns 0, or the error's code; or else what the Python function returns, where that is not None.
    """

    def __init__(self, machine):
        super().__init__()
        self.machine, self.texts = machine, {}

    def __call__(self, name, *types, result=ctypes.c_int):
        def decorate(function):
            self[name] = ctypes.CFUNCTYPE(result, *types)(functools.partial(self.call, name, function))
            return function
        return decorate

    def call(self, name, function, *arguments):
        machine = self.machine
        with machine.lock:
            machine.calls[name] += 1
            try:
                return function(*arguments) or 0
            except CudaError as error:
                machine.thread.last_error = error.code
                return error.code
            except BaseException:
                machine.fault(f"{name}: softcuda failed\n{traceback.format_exc()}")
                return 999

    def lacking(self, name):
        """The callback of a function that is not modelled: a fault."""
        def call():
            machine = self.machine
            with machine.lock:
                machine.fault(f"{name} is called, which softcuda lacks, at\n{machine.where()}")
            return 801
        return ctypes.CFUNCTYPE(ctypes.c_int)(call)

    def text(self, value):
        """The address of a C string that stays."""
        if value not in self.texts:
            self.texts[value] = ctypes.create_string_buffer(value.encode())
        return ctypes.addressof(self.texts[value])

    def error_name(self, code):
        return self.text(f"cudaError{NAMES.get(code, code)}" if code else "cudaSuccess")


def put(kind, address, value):
    """*address = value, of a ctypes kind."""
    kind.from_address(address).value = value


def view(address, size):
    """`size` bytes of the process's memory, as NumPy's."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
