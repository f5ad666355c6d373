#include "fiber.h"

#if defined(__x86_64__)
asm(R"(
.text
.globl vtp_shim_switch
.type vtp_shim_switch, @function
vtp_shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size vtp_shim_switch, .-vtp_shim_switch
.section .note.GNU-stack,"",@progbits
)");
#endif
