#include "driver.h"

#include <exception>
#include <string>

namespace {

std::string message;

}  // namespace

const char* vtp_shim_error() { return message.c_str(); }

int shim::guarded_call(const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& error) {
    message = error.what();
    return 1;
  }
  return 0;
}
