// How Python calls a kernel, and learns what arguments it takes.
#pragma once

namespace cuemu {

// Calls the kernel with the values that the pointers in `arguments` point to.
template <class... Args, size_t... I>
CUEMU_PLAIN inline void call(void** arguments, void (*kernel)(Args...), std::index_sequence<I...>) {
  kernel(*(typename std::remove_cv<Args>::type*)arguments[I]...);
}
template <class... Args>
CUEMU_PLAIN inline void call(void** arguments, void (*kernel)(Args...)) {
  call(arguments, kernel, std::index_sequence_for<Args...>());
}

// A type as NumPy writes it: f4, i8, u1, b1; s16 for a struct of 16 bytes; p before what a pointer points to, P if
// that is const.
template <class T>
CUEMU_PLAIN char* write_type(char* out) {
  using Plain = typename std::remove_cv<T>::type;
  using Target = typename std::remove_pointer<T>::type;
  if constexpr (std::is_pointer<T>::value) {
    *out++ = std::is_const<Target>::value ? 'P' : 'p';
    return write_type<Target>(out);
  } else if constexpr (std::is_void<T>::value) {
    return out + sprintf(out, "s1");
  } else {
    const char kind = std::is_floating_point<T>::value ? 'f' : std::is_same<Plain, bool>::value ? 'b'
                      : !std::is_integral<T>::value ? 's' : std::is_signed<T>::value ? 'i' : 'u';
    return out + sprintf(out, "%c%zu", kind, sizeof(T));
  }
}
template <class... Args>
CUEMU_PLAIN const char* signature(void (*)(Args...)) {
  static char text[1024];
  char* out = text;
  ((out = write_type<typename std::remove_cv<Args>::type>(out), *out++ = ' '), ...);
  *out = 0;
  return text;
}

}  // namespace cuemu

extern "C" char __ehdr_start[] __attribute__((visibility("hidden")));
extern "C" char _DYNAMIC[] __attribute__((visibility("hidden")));

// These are expanded after the kernels' text, so their names must not be ones that it may have defined as macros.
#define CUEMU_EXPORT extern "C" __attribute__((visibility("default")))
#define CUEMU_IMAGE                                                                                                    \
  CUEMU_EXPORT char* cuemu_image() { return __ehdr_start; }                                                            \
  CUEMU_EXPORT char* cuemu_image_end() { return _DYNAMIC; }
#define CUEMU_KERNEL(number, ...)                                                                                      \
  CUEMU_EXPORT CUEMU_PLAIN void cuemu_call_##number(void** cuemu_values) { cuemu::call(cuemu_values, __VA_ARGS__); }   \
  CUEMU_EXPORT CUEMU_PLAIN const char* cuemu_signature_##number() { return cuemu::signature(__VA_ARGS__); }
