/* abi::Builtins::poll for AArch64: generated code keeps every register live across it, so all that a C++
   function may change is saved here (q8-q15 too: a C++ function keeps only their low halves). */
#if defined(__aarch64__)
        .text
        .globl godwit_poll
        .hidden godwit_poll
        .type godwit_poll, %function
        .p2align 4
godwit_poll:
        .cfi_startproc
        sub sp, sp, #688
        .cfi_def_cfa_offset 688
        stp x29, x30, [sp]
        .cfi_offset x29, -688
        .cfi_offset x30, -680
        mov x29, sp
        stp x0, x1, [sp, #16]
        stp x2, x3, [sp, #32]
        stp x4, x5, [sp, #48]
        stp x6, x7, [sp, #64]
        stp x8, x9, [sp, #80]
        stp x10, x11, [sp, #96]
        stp x12, x13, [sp, #112]
        stp x14, x15, [sp, #128]
        stp x16, x17, [sp, #144]
        str x18, [sp, #160]
        stp q0, q1, [sp, #176]
        stp q2, q3, [sp, #208]
        stp q4, q5, [sp, #240]
        stp q6, q7, [sp, #272]
        stp q8, q9, [sp, #304]
        stp q10, q11, [sp, #336]
        stp q12, q13, [sp, #368]
        stp q14, q15, [sp, #400]
        stp q16, q17, [sp, #432]
        stp q18, q19, [sp, #464]
        stp q20, q21, [sp, #496]
        stp q22, q23, [sp, #528]
        stp q24, q25, [sp, #560]
        stp q26, q27, [sp, #592]
        stp q28, q29, [sp, #624]
        stp q30, q31, [sp, #656]
        mov x1, x30
        bl godwit_poll_slow
        ldp q30, q31, [sp, #656]
        ldp q28, q29, [sp, #624]
        ldp q26, q27, [sp, #592]
        ldp q24, q25, [sp, #560]
        ldp q22, q23, [sp, #528]
        ldp q20, q21, [sp, #496]
        ldp q18, q19, [sp, #464]
        ldp q16, q17, [sp, #432]
        ldp q14, q15, [sp, #400]
        ldp q12, q13, [sp, #368]
        ldp q10, q11, [sp, #336]
        ldp q8, q9, [sp, #304]
        ldp q6, q7, [sp, #272]
        ldp q4, q5, [sp, #240]
        ldp q2, q3, [sp, #208]
        ldp q0, q1, [sp, #176]
        ldr x18, [sp, #160]
        ldp x16, x17, [sp, #144]
        ldp x14, x15, [sp, #128]
        ldp x12, x13, [sp, #112]
        ldp x10, x11, [sp, #96]
        ldp x8, x9, [sp, #80]
        ldp x6, x7, [sp, #64]
        ldp x4, x5, [sp, #48]
        ldp x2, x3, [sp, #32]
        ldp x0, x1, [sp, #16]
        ldp x29, x30, [sp]
        add sp, sp, #688
        .cfi_def_cfa_offset 0
        .cfi_restore x29
        .cfi_restore x30
        ret
        .cfi_endproc
        .size godwit_poll, .-godwit_poll
#endif
        .section .note.GNU-stack,"",%progbits
