"""The operations of `vtp_core.ops` on CPUs, in C++ (`csrc/cpu`)."""
