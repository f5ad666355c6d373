// What the functions for ctypes share: exceptions become a message.
#pragma once

#include <functional>

namespace shim {

// Returns 0, or 1 if `work` threw: the message is then in vtp_shim_error().
int guarded_call(const std::function<void()>& work);

}  // namespace shim

extern "C" const char* vtp_shim_error();
