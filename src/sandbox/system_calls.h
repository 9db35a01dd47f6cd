// System calls by role (sandbox.h). mmap, mprotect, clone and clone3 are judged by their arguments and stand in no list.
#pragma once

#include <sys/syscall.h>

#include <string_view>

namespace godwit::sandbox {

struct NamedCall {
  std::string_view name;
  int number;
};

#define GODWIT_CALL(name) NamedCall{#name, __NR_##name}

// What a process with threads and files does.
inline constexpr NamedCall kCommonCalls[] = {
    GODWIT_CALL(brk), GODWIT_CALL(clock_getres), GODWIT_CALL(clock_gettime), GODWIT_CALL(clock_nanosleep), GODWIT_CALL(close),
    GODWIT_CALL(copy_file_range), GODWIT_CALL(dup), GODWIT_CALL(dup3), GODWIT_CALL(epoll_create1), GODWIT_CALL(epoll_ctl),
    GODWIT_CALL(epoll_pwait), GODWIT_CALL(epoll_pwait2), GODWIT_CALL(eventfd2), GODWIT_CALL(exit), GODWIT_CALL(exit_group),
    GODWIT_CALL(faccessat), GODWIT_CALL(faccessat2), GODWIT_CALL(fadvise64), GODWIT_CALL(fallocate), GODWIT_CALL(fchdir),
    GODWIT_CALL(fchmod), GODWIT_CALL(fchmodat), GODWIT_CALL(fcntl), GODWIT_CALL(fdatasync), GODWIT_CALL(flock),
    GODWIT_CALL(fstat), GODWIT_CALL(fstatfs), GODWIT_CALL(fsync), GODWIT_CALL(ftruncate), GODWIT_CALL(futex),
    GODWIT_CALL(futex_waitv), GODWIT_CALL(get_robust_list), GODWIT_CALL(getcpu), GODWIT_CALL(getcwd), GODWIT_CALL(getdents64),
    GODWIT_CALL(getegid), GODWIT_CALL(geteuid), GODWIT_CALL(getgid), GODWIT_CALL(getpid), GODWIT_CALL(getppid),
    GODWIT_CALL(getpriority), GODWIT_CALL(getrandom), GODWIT_CALL(getrlimit), GODWIT_CALL(getrusage), GODWIT_CALL(gettid),
    GODWIT_CALL(gettimeofday), GODWIT_CALL(getuid), GODWIT_CALL(ioctl), GODWIT_CALL(linkat), GODWIT_CALL(lseek),
    GODWIT_CALL(madvise), GODWIT_CALL(membarrier), GODWIT_CALL(memfd_create), GODWIT_CALL(mincore), GODWIT_CALL(mkdirat),
    GODWIT_CALL(mlock), GODWIT_CALL(mremap), GODWIT_CALL(msync), GODWIT_CALL(munlock), GODWIT_CALL(munmap),
    GODWIT_CALL(nanosleep), GODWIT_CALL(newfstatat), GODWIT_CALL(openat), GODWIT_CALL(openat2), GODWIT_CALL(pipe2),
    GODWIT_CALL(ppoll), GODWIT_CALL(prctl), GODWIT_CALL(pread64), GODWIT_CALL(preadv), GODWIT_CALL(preadv2),
    GODWIT_CALL(prlimit64), GODWIT_CALL(pselect6), GODWIT_CALL(pwrite64), GODWIT_CALL(pwritev), GODWIT_CALL(pwritev2),
    GODWIT_CALL(read), GODWIT_CALL(readlinkat), GODWIT_CALL(readv), GODWIT_CALL(renameat), GODWIT_CALL(renameat2),
    GODWIT_CALL(restart_syscall), GODWIT_CALL(rseq), GODWIT_CALL(rt_sigaction), GODWIT_CALL(rt_sigpending),
    GODWIT_CALL(rt_sigprocmask), GODWIT_CALL(rt_sigreturn), GODWIT_CALL(rt_sigsuspend), GODWIT_CALL(rt_sigtimedwait),
    GODWIT_CALL(sched_getaffinity), GODWIT_CALL(sched_getparam), GODWIT_CALL(sched_getscheduler),
    GODWIT_CALL(sched_setaffinity), GODWIT_CALL(sched_setscheduler), GODWIT_CALL(sched_yield), GODWIT_CALL(sendfile),
    GODWIT_CALL(set_robust_list), GODWIT_CALL(set_tid_address), GODWIT_CALL(setpriority), GODWIT_CALL(sigaltstack),
    GODWIT_CALL(statfs), GODWIT_CALL(statx), GODWIT_CALL(symlinkat), GODWIT_CALL(sync_file_range), GODWIT_CALL(sysinfo),
    GODWIT_CALL(tgkill), GODWIT_CALL(timerfd_create), GODWIT_CALL(timerfd_gettime), GODWIT_CALL(timerfd_settime),
    GODWIT_CALL(times), GODWIT_CALL(truncate), GODWIT_CALL(umask), GODWIT_CALL(uname), GODWIT_CALL(unlinkat),
    GODWIT_CALL(utimensat), GODWIT_CALL(write), GODWIT_CALL(writev),
#if defined(__x86_64__)
    GODWIT_CALL(access), GODWIT_CALL(arch_prctl), GODWIT_CALL(creat), GODWIT_CALL(dup2), GODWIT_CALL(epoll_create),
    GODWIT_CALL(epoll_wait), GODWIT_CALL(eventfd), GODWIT_CALL(link), GODWIT_CALL(lstat), GODWIT_CALL(mkdir), GODWIT_CALL(open),
    GODWIT_CALL(pipe), GODWIT_CALL(poll), GODWIT_CALL(readlink), GODWIT_CALL(rename), GODWIT_CALL(rmdir), GODWIT_CALL(select),
    GODWIT_CALL(stat), GODWIT_CALL(symlink), GODWIT_CALL(time), GODWIT_CALL(unlink),
#endif
};

// On sockets that are there already.
inline constexpr NamedCall kSocketCalls[] = {
    GODWIT_CALL(accept), GODWIT_CALL(accept4), GODWIT_CALL(getpeername), GODWIT_CALL(getsockname), GODWIT_CALL(getsockopt),
    GODWIT_CALL(recvfrom), GODWIT_CALL(recvmmsg), GODWIT_CALL(recvmsg), GODWIT_CALL(sendmmsg), GODWIT_CALL(sendmsg),
    GODWIT_CALL(sendto), GODWIT_CALL(setsockopt), GODWIT_CALL(shutdown),
};

// Making connections, and watching which memory is written.
inline constexpr NamedCall kDaemonCalls[] = {
    GODWIT_CALL(bind), GODWIT_CALL(connect), GODWIT_CALL(listen), GODWIT_CALL(socket), GODWIT_CALL(socketpair),
    GODWIT_CALL(userfaultfd),
};

// What nothing here ever does: who tries has been taken over.
inline constexpr NamedCall kFatalCalls[] = {
    GODWIT_CALL(acct), GODWIT_CALL(add_key), GODWIT_CALL(adjtimex), GODWIT_CALL(bpf), GODWIT_CALL(capset), GODWIT_CALL(chroot),
    GODWIT_CALL(clock_adjtime), GODWIT_CALL(clock_settime), GODWIT_CALL(delete_module), GODWIT_CALL(execve),
    GODWIT_CALL(execveat), GODWIT_CALL(finit_module), GODWIT_CALL(fsmount), GODWIT_CALL(fsopen), GODWIT_CALL(init_module),
    GODWIT_CALL(io_uring_enter), GODWIT_CALL(io_uring_register), GODWIT_CALL(io_uring_setup), GODWIT_CALL(kexec_file_load),
    GODWIT_CALL(kexec_load), GODWIT_CALL(keyctl), GODWIT_CALL(mount), GODWIT_CALL(move_mount), GODWIT_CALL(open_by_handle_at),
    GODWIT_CALL(open_tree), GODWIT_CALL(perf_event_open), GODWIT_CALL(personality), GODWIT_CALL(pidfd_getfd),
    GODWIT_CALL(pivot_root), GODWIT_CALL(process_vm_readv), GODWIT_CALL(process_vm_writev), GODWIT_CALL(ptrace),
    GODWIT_CALL(quotactl), GODWIT_CALL(reboot), GODWIT_CALL(request_key), GODWIT_CALL(setfsgid), GODWIT_CALL(setfsuid),
    GODWIT_CALL(setgid), GODWIT_CALL(setgroups), GODWIT_CALL(setns), GODWIT_CALL(setregid), GODWIT_CALL(setresgid),
    GODWIT_CALL(setresuid), GODWIT_CALL(setreuid), GODWIT_CALL(settimeofday), GODWIT_CALL(setuid), GODWIT_CALL(swapoff),
    GODWIT_CALL(swapon), GODWIT_CALL(syslog), GODWIT_CALL(umount2), GODWIT_CALL(unshare),
#if defined(__x86_64__)
    GODWIT_CALL(ioperm), GODWIT_CALL(iopl), GODWIT_CALL(modify_ldt),
#endif
};

#undef GODWIT_CALL

}  // namespace godwit::sandbox
