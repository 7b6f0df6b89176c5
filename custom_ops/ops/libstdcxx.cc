// What newer headers of libstdc++ call, for older ones of its shared library.
//
// Since GCC 11, std::vector and std::string report sizes beyond the address space through a
// function of GLIBCXX_3.4.29. Defined here (the version script keeps it inside), the library loads
// with the libstdc++ of GCC 8, as onnxruntime does.
#include <new>

#if defined(__GLIBCXX__)
namespace std {
// NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp): the name is the one that
// is called.
[[noreturn]] void __throw_bad_array_new_length();
void __throw_bad_array_new_length() { throw bad_array_new_length(); }
// NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp)
}  // namespace std
#endif
