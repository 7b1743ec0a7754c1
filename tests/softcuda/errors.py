"""CUDA's error codes, by their names in cudaError_t without the prefix; those of the driver and the runtime agree."""

NAMES = {
    0: "Success", 1: "InvalidValue", 2: "MemoryAllocation", 35: "InsufficientDriver", 46: "DevicesUnavailable",
    100: "NoDevice", 101: "InvalidDevice", 200: "InvalidKernelImage", 217: "PeerAccessUnsupported",
    400: "InvalidResourceHandle", 500: "SymbolNotFound", 600: "NotReady", 700: "IllegalAddress",
    704: "PeerAccessAlreadyEnabled", 719: "LaunchFailure", 801: "NotSupported", 900: "StreamCaptureUnsupported",
    901: "StreamCaptureInvalidated", 902: "StreamCaptureMerge", 903: "StreamCaptureUnmatched",
    904: "StreamCaptureUnjoined", 905: "StreamCaptureIsolation", 906: "StreamCaptureImplicit", 907: "CapturedEvent",
    908: "StreamCaptureWrongThread", 999: "Unknown"}
CODES = {name: code for code, name in NAMES.items()}


class CudaError(Exception):
    """What a function of CUDA returns instead of success: CudaError("InvalidValue", "in words")."""

    def __init__(self, name, why=""):
        super().__init__(f"{name}{': ' * bool(why)}{why}")
        self.name, self.code = name, CODES[name]
