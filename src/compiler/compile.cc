#include "compiler/compile.h"

#include <link.h>
#include <llvm/IR/Verifier.h>
#include <llvm/Support/SHA256.h>

#include <atomic>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>

#include "compiler/codegen.h"
#include "compiler/describe.h"
#include "compiler/exceptions.h"
#include "compiler/image_tables.h"
#include "compiler/line_table.h"
#include "compiler/lower.h"
#include "compiler/partition.h"
#include "compiler/partition_cache.h"
#include "compiler/quick_safepoints.h"
#include "compiler/safepoints.h"
#include "compiler/translate.h"
#include "package/package.h"

namespace godwit::compiler {
namespace {

// What is known of a partition while it is compiled.
struct Work {
  Partition partition;
  std::vector<FunctionSafepoints> safepoints;
  std::map<package::Isa, Bytes> objects;
  Bytes bitcode;  // Where other targets' objects are to be made from it.
};

Bytes Sha256(ByteView bytes) {
  const auto hash = llvm::SHA256::hash({bytes.data(), bytes.size()});
  return Bytes(hash.begin(), hash.end());
}

std::string Hex(ByteView bytes) {
  std::string text;
  for (std::uint8_t byte : bytes) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

class Compilation {
 public:
  Compilation(const wasm::Module& module, const Options& options, int level)
      : module_(module), options_(options), level_(level), cache_(options.cache), lines_(module), types_(MakeTypeTable(module)) {
    for (Partition& partition : Divide(module, Settings())) {
      total_ += partition.bytes * options.targets.size();
      work_.emplace_back().partition = std::move(partition);
    }
  }

  Result<Output> Run() {
    GODWIT_TRY(InParallel(work_.size(), [&](std::size_t i) { return CompilePartition(work_[i], i == 0); }));
    const std::size_t targets = options_.targets.size();
    GODWIT_TRY(InParallel(work_.size() * targets, [&](std::size_t i) {
      return FinishPartition(work_[i / targets], options_.targets[i % targets]);
    }));
    cache_.Trim();

    // The compiler gives the same code for the same keys, so these stand for it.
    std::string keys;
    std::set<std::uint32_t> with_resume;
    std::vector<FunctionSafepoints> safepoints;
    for (Work& work : work_) {
      keys += work.partition.key + "\n";
      for (FunctionSafepoints& records : work.safepoints) {
        with_resume.insert(records.function);
        safepoints.push_back(std::move(records));
      }
    }
    const Bytes ir_hash = Sha256(AsBytes(keys));
    const Bytes tables = BuildTables(with_resume, ir_hash);

    Output output;
    output.wasm = module_.binary;
    output.module = DescribeModule(module_, types_, std::move(safepoints), ir_hash,
                                   package::Sha256Digest(module_.binary), options_.safepoints);
    for (package::Isa isa : options_.targets) {
      Progress(0, "linking");
      std::vector<Bytes> objects;
      GODWIT_ASSIGN(Bytes table_object, GenerateObject(tables, isa, std::min(level_, 1)));
      objects.push_back(std::move(table_object));
      for (Work& work : work_) objects.push_back(std::move(work.objects[isa]));
      if (HasLineTable()) {
        GODWIT_ASSIGN(Bytes lines, BuildLines(objects));
        GODWIT_ASSIGN(objects.emplace_back(), GenerateObject(lines, isa, std::min(level_, 1)));
      }
      GODWIT_ASSIGN(output.images[isa], LinkImage(objects, isa, kImageSymbol));
    }
    return output;
  }

 private:
  // What decides about a partition's code beside its functions and what the module declares: how calls of functions of
  // other partitions look, and with DWARF, which counts in bytes of the whole module, all of it.
  std::string Settings() const {
    std::string settings = Fingerprint() + " O" + std::to_string(level_) + (options_.safepoints ? " stops" : " no stops") +
                           (module_.uses.exceptions ? " exceptions" : "") + " tail calls";
    for (std::size_t i = 0; i < module_.uses.tail_calls.size(); ++i) {
      if (module_.uses.tail_calls[i]) settings += " " + std::to_string(i);
    }
    return lines_.empty() ? settings : settings + " lines of " + package::Sha256Digest(module_.binary);
  }

  // Takes from the cache what is there, and makes the rest, or bitcode for FinishPartition to make it from.
  Status CompilePartition(Work& work, bool first) {
    std::vector<package::Isa> missing;
    for (package::Isa isa : options_.targets) {
      if (auto found = cache_.Find(work.partition.key, isa)) {
        work.safepoints = std::move(found->safepoints);
        work.objects[isa] = std::move(found->object);
        Progress(work.partition.bytes, "from the cache");
      } else {
        missing.push_back(isa);
      }
    }
    if (missing.empty()) return {};
    llvm::LLVMContext context;
    context.setDiscardValueNames(level_ == 0);
    llvm::Module module("wasm", context);
    GODWIT_TRY(BuildIr(work, first, module));
    // The optimised code of one target depends in small ways on whether it went through bitcode; the fast level's does not.
    if (level_ != 0 || missing.size() > 1) work.bitcode = ToBitcode(module);
    if (level_ != 0) return {};
    GODWIT_ASSIGN(Bytes object, GenerateObject(module, missing[0], level_));
    Keep(work, missing[0], std::move(object));
    return {};
  }

  Status FinishPartition(Work& work, package::Isa isa) {
    {
      std::lock_guard lock(mutex_);
      if (work.objects.contains(isa)) return {};
    }
    GODWIT_ASSIGN(Bytes object, GenerateObject(work.bitcode, isa, level_));
    Keep(work, isa, std::move(object));
    return {};
  }

  void Keep(Work& work, package::Isa isa, Bytes object) {
    cache_.Store(work.partition.key, isa, work.safepoints, object);
    {
      std::lock_guard lock(mutex_);
      work.objects[isa] = std::move(object);
    }
    Progress(work.partition.bytes, package::IsaName(isa));
  }

  // From Wasm to instrumented IR that is the same for every ISA.
  Status BuildIr(Work& work, bool first, llvm::Module& module) {
    PrepareForMiddleEnd(module);
    AbiIr abi(module, module_.uses.exceptions);
    if (first) {
      for (std::uint32_t i = 0; i < module_.ir->num_func_imports; ++i) DefineImportWrapper(module_, i, abi);
      for (unsigned i = 0; i < kSyntheticFunctions; ++i) DefineSynthetic(module_, static_cast<Synthetic>(i), abi);
    }
    std::optional<SourceScope> scope;
    if (!lines_.empty()) scope.emplace(module, lines_);
    for (std::uint32_t i = work.partition.first; i < work.partition.end; ++i) {
      GODWIT_TRY(TranslateFunction(module_, i, abi, scope ? &*scope : nullptr));
    }
    if (scope) scope->Finish();
    GODWIT_TRY(Verify(module, "translation"));
    Optimise(module, level_);
    LowerExceptions(abi);
    for (std::uint32_t i = work.partition.first; i < work.partition.end; ++i) {
      if (module_.uses.tail_calls[i]) DefineTailWrapper(module_, i, abi);
    }
    RestoreContextArguments(abi);
    if (options_.safepoints) {
      GODWIT_ASSIGN(work.safepoints, level_ == 0 ? InsertQuickSafepoints(abi) : InsertSafepoints(abi));
      GODWIT_TRY(Verify(module, "the safepoint pass"));
    }
    LowerOpaqueCalls(abi);
    return Verify(module, "lowering");
  }

  Bytes BuildTables(const std::set<std::uint32_t>& with_resume, ByteView ir_hash) {
    llvm::LLVMContext context;
    llvm::Module module("tables", context);
    PrepareForMiddleEnd(module);
    AbiIr abi(module);
    DefineImageTables(module_, types_, with_resume, ir_hash, HasLineTable(), abi);
    if (level_ == 0) DefineQuickHelpers(abi);
    LowerOpaqueCalls(abi);
    return ToBitcode(module);
  }

  // Beside lines it says to which functions cold parts belong.
  bool HasLineTable() const { return !lines_.empty() || level_ > 0; }

  static Result<Bytes> BuildLines(const std::vector<Bytes>& objects) {
    NativeLines lines;
    for (const Bytes& object : objects) GODWIT_TRY(lines.Add(object));
    llvm::LLVMContext context;
    llvm::Module module("lines", context);
    PrepareForMiddleEnd(module);
    AbiIr abi(module);
    DefineLineTable(lines, abi);
    return ToBitcode(module);
  }

  // Not at the fast level, where it would be a tenth of the whole: what it would find, other levels find too.
  Status Verify(llvm::Module& module, const char* after) const {
    if (level_ == 0) return {};
    std::string text;
    llvm::raw_string_ostream stream(text);
    if (llvm::verifyModule(module, &stream)) return Internal("invalid IR after " + std::string(after) + ": " + text);
    return {};
  }

  void Progress(std::uint64_t bytes, std::string_view phase) {
    const std::uint64_t done = done_ += bytes;
    if (options_.progress) options_.progress(done, total_, phase);
  }

  // Runs task(0..count-1) on the threads; the first error (of the lowest number that failed) ends it.
  Status InParallel(std::size_t count, const std::function<Status(std::size_t)>& task) {
    std::atomic<std::size_t> next = 0;
    std::size_t failed_at = count;
    std::optional<Error> error;
    auto work = [&] {
      for (std::size_t i; (i = next++) < count;) {
        Status status = task(i);
        if (status.ok()) continue;
        std::lock_guard lock(mutex_);
        if (i < failed_at) {
          failed_at = i;
          error = status.error();
        }
        next = count;
      }
    };
    const unsigned wanted = options_.threads ? options_.threads : std::max(1u, std::thread::hardware_concurrency());
    std::vector<std::thread> threads;
    for (unsigned i = 1; i < std::min<std::size_t>(wanted, count); ++i) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
    if (error) return *error;
    return {};
  }

  const wasm::Module& module_;
  const Options& options_;
  const int level_;
  const PartitionCache cache_;
  const SourceLines lines_;
  std::vector<Work> work_;
  std::mutex mutex_;  // Guards objects of work_ while they are made, and InParallel's error.
  TypeTable types_;
  std::uint64_t total_ = 0;
  std::atomic<std::uint64_t> done_ = 0;
};

}  // namespace

Result<Output> Compile(ByteView source, std::string_view name, const Options& options) {
  if (options.targets.empty()) return InvalidArgument("no target to compile for");
  if (options.optimisation_level > 3) return InvalidArgument("optimisation levels are 0 to 3");
  InitialiseTargets();
  GODWIT_ASSIGN(wasm::Module module, wasm::Read(source, name));
  if (llvm::is_contained(module.uses.tail_calls, true) && llvm::is_contained(options.targets, package::Isa::kRiscv64)) {
    return Unsupported("tail calls on riscv64").Within(name);
  }
  std::uint64_t code_bytes = 0;
  for (std::uint32_t bytes : module.body_bytes) code_bytes += bytes;
  int level = options.optimisation_level;
  if (level < 0) level = code_bytes > kLargeModuleBytes ? 0 : 3;
  auto output = Compilation(module, options, level).Run();
  if (!output.ok()) return output.error().Within(name);
  return output;
}

std::string Fingerprint() {
  // The build id of the object that holds this function.
  struct Search {
    const void* here;
    std::string id;
  } search{reinterpret_cast<const void*>(&Fingerprint), ""};
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        auto& search = *static_cast<Search*>(data);
        bool contains = false;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& segment = info->dlpi_phdr[i];
          const auto* begin = reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr);
          contains |= segment.p_type == PT_LOAD && search.here >= begin && search.here < begin + segment.p_memsz;
        }
        for (int i = 0; contains && i < info->dlpi_phnum; ++i) {
          const auto& segment = info->dlpi_phdr[i];
          if (segment.p_type != PT_NOTE) continue;
          const auto* at = reinterpret_cast<const std::uint8_t*>(info->dlpi_addr + segment.p_vaddr);
          const auto* end = at + segment.p_memsz;
          while (at + sizeof(ElfW(Nhdr)) <= end) {
            ElfW(Nhdr) note;
            std::memcpy(&note, at, sizeof note);
            const auto* name = at + sizeof note;
            const auto* value = name + (note.n_namesz + 3) / 4 * 4;
            if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && !std::memcmp(name, "GNU", 4)) {
              search.id = Hex({value, note.n_descsz});
            }
            at = value + (note.n_descsz + 3) / 4 * 4;
          }
        }
        return contains ? 1 : 0;
      },
      &search);
  return "abi" + std::to_string(abi::kAbiVersion) + "-" + search.id;
}

}  // namespace godwit::compiler
