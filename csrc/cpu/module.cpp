// The Python module vtp_plugins.kernels._C_cpu. It is empty: loading the library registers the operators of
// torch.ops.vtp_cpu, each file its own with STABLE_TORCH_LIBRARY_FRAGMENT(vtp_cpu, m).
#include <Python.h>

#include <string>

#include <torch/csrc/stable/library.h>

#include "isa.h"

namespace {

std::string isa_name() { return vtp::name_of(vtp::isa()); }

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(vtp_cpu, m) { m.def("isa() -> str"); }

// No argument is a tensor, so nothing tells the dispatcher a device.
STABLE_TORCH_LIBRARY_IMPL(vtp_cpu, CompositeExplicitAutograd, m) { m.impl("isa", TORCH_BOX(&isa_name)); }

PyMODINIT_FUNC PyInit__C_cpu(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C_cpu", nullptr, -1, nullptr,
                               nullptr,               nullptr,  nullptr, nullptr};
  return PyModule_Create(&module);
}
