"""The functions of libcuda and of NVRTC that CuPy calls for this program."""
import ctypes
from ctypes import c_char_p, c_int, c_size_t, c_uint, c_void_p

from tests.softcuda import kernels
from tests.softcuda.api import Functions, put
from tests.softcuda.errors import CudaError

DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
ARCHITECTURES = 75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121  # of NVRTC 13.0


def driver(machine):
    F = Functions(machine)

    @F("cuGetErrorName", c_int, c_void_p)
    def error_name(code, out):
        put(c_void_p, out, F.error_name(code))

    @F("cuGetErrorString", c_int, c_void_p)
    def error_string(code, out):
        put(c_void_p, out, F.text("as softcuda says"))

    @F("cuModuleLoadData", c_void_p, c_void_p)
    def load(out, image):
        machine.refuse("a module is loaded")
        device = machine.enter()
        put(c_void_p, out, machine.new((kernels.load(ctypes.string_at(image)), device)))

    @F("cuModuleUnload", c_void_p)
    def unload(module):
        machine.get(module, tuple)
        del machine.handles[module]

    @F("cuModuleGetFunction", c_void_p, c_void_p, c_char_p)
    def get_function(out, handle, name):
        module, device = machine.get(handle, tuple)
        put(c_void_p, out, machine.new(kernels.Function(machine, module, name.decode(), device)))

    @F("cuFuncSetAttribute", c_void_p, c_int, c_int)
    def set_attribute(handle, which, value):
        function = machine.get(handle, kernels.Function)
        if which != DYNAMIC_SHARED or value > function.device.shared:
            raise CudaError("InvalidValue", f"{function.name}: {value} bytes of shared memory")
        function.dynamic = max(value, function.dynamic)

    @F("cuLaunchKernel", c_void_p, *[c_uint] * 7, c_void_p, c_void_p, c_void_p)
    def launch(handle, gx, gy, gz, bx, by, bz, shared, stream, pointers, extra):
        function, stream = machine.get(handle, kernels.Function), machine.stream(stream)
        if stream.device != function.device.number:
            machine.fault(f"{function.name} of device {function.device.number} is launched in a {stream}, at\n"
                          f"{machine.where()}")
            raise CudaError("InvalidResourceHandle")
        if min(gx, gy, gz, bx, by, bz) < 1 or bx * by * bz > 1024 or shared > function.dynamic:
            machine.fault(f"{function.name}: a block of {bx, by, bz} with {shared} bytes of shared memory, a grid of "
                          f"{gx, gy, gz}, at\n{machine.where()}")
            raise CudaError("InvalidValue")
        arguments = function.arguments(pointers)
        machine.give(stream, lambda: function.run((gx, gy, gz), (bx, by, bz), shared, arguments), f"kernel {function.name}")

    return F


def nvrtc(machine):
    F = Functions(machine)

    @F("nvrtcGetErrorString", c_int, result=c_void_p)
    def error_string(code):
        return F.text({6: "NVRTC_ERROR_COMPILATION"}.get(code, f"NVRTC error {code}"))

    @F("nvrtcVersion", c_void_p, c_void_p)
    def version(major, minor):
        put(c_int, major, 13)
        put(c_int, minor, 0)

    @F("nvrtcGetNumSupportedArchs", c_void_p)
    def count(out):
        put(c_int, out, len(ARCHITECTURES))

    @F("nvrtcGetSupportedArchs", c_void_p)
    def architectures(out):
        ctypes.memmove(out, (c_int * len(ARCHITECTURES))(*ARCHITECTURES), 4 * len(ARCHITECTURES))

    @F("nvrtcCreateProgram", c_void_p, c_char_p, c_char_p, c_int, c_void_p, c_void_p)
    def create(out, source, name, count, headers, names):
        put(c_void_p, out, machine.new(kernels.Program(source.decode())))

    @F("nvrtcDestroyProgram", c_void_p)
    def destroy(place):
        del machine.handles[c_void_p.from_address(place).value]

    @F("nvrtcCompileProgram", c_void_p, c_int, c_void_p)
    def compile_program(handle, count, options):
        words = [word.decode() for word in (c_char_p * count).from_address(options)] if count else []
        return 0 if machine.get(handle, kernels.Program).compile(words) else 6

    def text(name, attribute):
        @F(f"nvrtcGet{name}Size", c_void_p, c_void_p)
        def size(handle, out):
            put(c_size_t, out, len(getattr(machine.get(handle, kernels.Program), attribute)) + 1)

        @F(f"nvrtcGet{name}", c_void_p, c_void_p)
        def get(handle, out):
            data = getattr(machine.get(handle, kernels.Program), attribute) + b"\0"
            ctypes.memmove(out, data, len(data))

    for name, attribute in ("PTX", "image"), ("CUBIN", "image"), ("ProgramLog", "log"):
        text(name, attribute)
    return F
