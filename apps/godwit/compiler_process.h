// Running the compiler, which is a program of its own beside this one: bin/godwit-compiler.
#pragma once

#include <string>

#include "compiler/compile.h"

namespace godwit::cli {

// compiler::Compile in a process of its own. kUnsupported where this godwit has no compiler; kInternal if the
// compiler was killed or crashed, with how.
Result<compiler::Output> RunCompiler(ByteView source, const std::string& name, const compiler::Options& options);

// compiler::Fingerprint of that program.
Result<std::string> CompilerFingerprint();

// What identifies the program's file without running it (path, size, time); kUnsupported where there is none.
Result<std::string> CompilerFileIdentity();

}  // namespace godwit::cli
