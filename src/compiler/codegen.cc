#include "compiler/codegen.h"

#include <lld/Common/Driver.h>
#include <llvm/Bitcode/BitcodeReader.h>
#include <llvm/Bitcode/BitcodeWriter.h>
#include <llvm/CodeGen/MachineFunctionPass.h>
#include <llvm/CodeGen/MachineModuleInfo.h>
#include <llvm/CodeGen/Passes.h>
#include <llvm/CodeGen/TargetPassConfig.h>
#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/IntrinsicsAArch64.h>
#include <llvm/IR/IntrinsicsX86.h>
#include <llvm/IR/LegacyPassManager.h>
#include <llvm/IR/Verifier.h>
#include <llvm/MC/TargetRegistry.h>
#include <llvm/ObjCopy/CommonConfig.h>
#include <llvm/ObjCopy/ELF/ELFConfig.h>
#include <llvm/ObjCopy/ELF/ELFObjcopy.h>
#include <llvm/Object/ELFObjectFile.h>
#include <llvm/Passes/PassBuilder.h>
#include <llvm/Support/FileSystem.h>
#include <llvm/Support/SmallVectorMemoryBuffer.h>
#include <llvm/Support/TargetSelect.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/Target/TargetMachine.h>
#include <llvm/Transforms/Utils/Mem2Reg.h>
#include <unistd.h>

#include <mutex>

#include "compiler/count_from_zero.h"
#include "package/files.h"

LLD_HAS_DRIVER(elf)

namespace godwit::compiler {
namespace {

// Code offsets in an image have 32 bits.
constexpr std::uint64_t kImageBytesMax = 2ull << 30;

// A processor fetches lines of 64 bytes: a tight loop that crosses into the next takes half as long again. These let one of
// up to 32 bytes never do so, and make a function's speed independent of what lies in front of it.
constexpr unsigned kLoopAlignment = 32;
constexpr unsigned kFunctionAlignment = 64;

struct Target {
  const char* triple;
  const char* cpu;
  const char* features;
  const char* emulation;      // For the linker.
  const char* max_page_size;  // The largest page size a device of this ISA may have.
};

// What instructions cost. LLVM would take it from x86-64-v2, as of the first processors that had it: on others its
// rotations by shld are 3 to 6 times slower than rol, and it splits address arithmetic that they do in one step.
constexpr const char* kTuning = "generic";

Target TargetOf(package::Isa isa) {
  switch (isa) {
    case package::Isa::kX86_64: return {"x86_64-unknown-linux-gnu", "x86-64-v2", "", "elf_x86_64", "4096"};
    case package::Isa::kAarch64: return {"aarch64-unknown-linux-gnu", "generic", "", "aarch64linux", "65536"};
    case package::Isa::kRiscv64: return {"riscv64-unknown-linux-gnu", "generic-rv64", "+m,+a,+f,+d,+c", "elf64lriscv", "4096"};
  }
  GODWIT_CHECK(false, "isa");
}

llvm::CodeGenOptLevel CodeGenLevel(int level) {
  switch (level) {
    case 0: return llvm::CodeGenOptLevel::None;
    case 1: return llvm::CodeGenOptLevel::Less;
    case 2: return llvm::CodeGenOptLevel::Default;
    default: return llvm::CodeGenOptLevel::Aggressive;
  }
}

std::unique_ptr<llvm::TargetMachine> MakeTargetMachine(package::Isa isa, int level) {
  const Target target = TargetOf(isa);
  std::string error;
  const llvm::Target* found = llvm::TargetRegistry::lookupTarget(target.triple, error);
  GODWIT_CHECK(found, error);
  llvm::TargetOptions options;
  options.AllowFPOpFusion = llvm::FPOpFusion::Strict;  // Wasm has no fused multiply-add.
  options.TrapUnreachable = true;
  options.NoTrapAfterNoreturn = true;
  options.LoopAlignment = kLoopAlignment;
  options.EnableMachineFunctionSplitter = level > 0;  // What hardly ever runs goes to a section of its own.
  return std::unique_ptr<llvm::TargetMachine>(found->createTargetMachine(target.triple, target.cpu, target.features, options, llvm::Reloc::PIC_,
                                    llvm::CodeModel::Small, CodeGenLevel(level)));
}

std::string MiddleEndLayout() {
  return MakeTargetMachine(package::Isa::kX86_64, 3)->createDataLayout().getStringRepresentation() + "-ni:2";
}

// i8x16.swizzle in the ISA's own instruction, or lane by lane.
llvm::Value* Swizzle(llvm::IRBuilder<>& b, llvm::Value* lanes, llvm::Value* numbers, package::Isa isa) {
  switch (isa) {
    case package::Isa::kX86_64: {
      // pshufb gives 0 where a number's highest bit is set: 16 and above are brought there.
      llvm::Value* far = b.CreateBinaryIntrinsic(llvm::Intrinsic::uadd_sat, numbers, b.CreateVectorSplat(16, b.getInt8(0x70)));
      return b.CreateIntrinsic(llvm::Intrinsic::x86_ssse3_pshuf_b_128, {}, {lanes, far});
    }
    case package::Isa::kAarch64:
      return b.CreateIntrinsic(llvm::Intrinsic::aarch64_neon_tbl1, {lanes->getType()}, {lanes, numbers});
    case package::Isa::kRiscv64: break;
  }
  llvm::Value* result = llvm::Constant::getNullValue(lanes->getType());
  for (std::uint64_t i = 0; i < 16; ++i) {
    llvm::Value* number = b.CreateExtractElement(numbers, i);
    llvm::Value* lane = b.CreateExtractElement(lanes, b.CreateAnd(number, 15));
    llvm::Value* chosen = b.CreateSelect(b.CreateICmpULT(number, b.getInt8(16)), lane, b.getInt8(0));
    result = b.CreateInsertElement(result, chosen, i);
  }
  return result;
}

void LowerIsaFunctions(llvm::Module& module, package::Isa isa) {
  llvm::Function* swizzle = module.getFunction("isa.swizzle");
  if (!swizzle) return;
  for (llvm::User* user : llvm::make_early_inc_range(swizzle->users())) {
    auto* call = llvm::cast<llvm::CallInst>(user);
    llvm::IRBuilder<> b(call);
    call->replaceAllUsesWith(Swizzle(b, call->getArgOperand(0), call->getArgOperand(1), isa));
    call->eraseFromParent();
  }
  swizzle->eraseFromParent();
}

// Says that each function but clones, which are cold as a whole, runs so often that only branches which hardly ever go one
// way lead to blocks that run less than once, which are split off; and not so often that these seem to run once in nested
// loops. Only once blocks are in order: before, LLVM would take the branches' guessed weights for measured ones.
class CountEntries : public llvm::MachineFunctionPass {
 public:
  CountEntries() : MachineFunctionPass(id_) {}
  bool runOnMachineFunction(llvm::MachineFunction& machine) override {
    llvm::Function& function = machine.getFunction();
    if (!function.hasSection()) function.setEntryCount(1024);
    return false;
  }
  void getAnalysisUsage(llvm::AnalysisUsage& usage) const override {
    usage.setPreservesAll();
    MachineFunctionPass::getAnalysisUsage(usage);
  }

 private:
  static char id_;
};
char CountEntries::id_;

// As TargetMachine::addPassesToEmitFile does it, with CountEntries among them.
bool AddPasses(llvm::LLVMTargetMachine& machine, llvm::legacy::PassManager& manager, llvm::raw_pwrite_stream& stream) {
  llvm::TargetPassConfig* passes = machine.createPassConfig(manager);
  auto* module_info = new llvm::MachineModuleInfoWrapperPass(&machine);
  // At level 0 that pass is not run, and nobody would own ours.
  if (machine.getOptLevel() != llvm::CodeGenOptLevel::None) passes->insertPass(&llvm::MachineBlockPlacementID, new CountEntries);
  manager.add(passes);
  manager.add(module_info);
  if (passes->addISelPasses()) return false;
  passes->addMachinePasses();
  passes->setInitialized();
  if (machine.addAsmPrinter(manager, stream, nullptr, llvm::CodeGenFileType::ObjectFile, module_info->getMMI().getContext())) return false;
  manager.add(llvm::createFreeMachineFunctionPass());
  return true;
}

// LLVM gives the symbols of functions' cold parts no linkage beyond the object, but the line table names them.
Result<Bytes> WithColdPartsNamed(const llvm::SmallVector<char, 0>& object) {
  auto failed = [](llvm::Error error) { return Internal("naming cold code: " + llvm::toString(std::move(error))); };
  auto file = llvm::object::ObjectFile::createELFObjectFile(llvm::MemoryBufferRef(llvm::StringRef(object.data(), object.size()), "object"));
  if (!file) return failed(file.takeError());
  llvm::objcopy::CommonConfig config;
  auto pattern = llvm::objcopy::NameOrPattern::create("*.cold", llvm::objcopy::MatchStyle::Wildcard, [](llvm::Error error) { return error; });
  if (auto error = config.SymbolsToGlobalize.addMatcher(std::move(pattern))) return failed(std::move(error));
  llvm::SmallVector<char, 0> buffer;
  llvm::raw_svector_ostream stream(buffer);
  if (auto error = llvm::objcopy::elf::executeObjcopyOnBinary(config, {}, llvm::cast<llvm::object::ELFObjectFileBase>(**file), stream)) {
    return failed(std::move(error));
  }
  return Bytes(buffer.begin(), buffer.end());
}

}  // namespace

void InitialiseTargets() {
  static std::once_flag once;
  std::call_once(once, [] {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
    LLVMInitializeAArch64TargetInfo();
    LLVMInitializeAArch64Target();
    LLVMInitializeAArch64TargetMC();
    LLVMInitializeAArch64AsmPrinter();
    LLVMInitializeRISCVTargetInfo();
    LLVMInitializeRISCVTarget();
    LLVMInitializeRISCVTargetMC();
    LLVMInitializeRISCVAsmPrinter();
  });
}

void PrepareForMiddleEnd(llvm::Module& module) {
  static const std::string layout = MiddleEndLayout();
  module.setDataLayout(layout);
  module.setTargetTriple(TargetOf(package::Isa::kX86_64).triple);
}

void Optimise(llvm::Module& module, int level) {
  auto machine = MakeTargetMachine(package::Isa::kX86_64, level);
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager sccs;
  llvm::ModuleAnalysisManager modules;
  llvm::PipelineTuningOptions tuning;
  tuning.LoopVectorization = tuning.SLPVectorization = level >= 2;
  llvm::PassBuilder passes(machine.get(), tuning);
  // No library function exists in an image, so nothing may be turned into a call of one.
  functions.registerPass([&] {
    llvm::TargetLibraryInfoImpl library((llvm::Triple(module.getTargetTriple())));
    library.disableAllFunctions();
    return llvm::TargetLibraryAnalysis(std::move(library));
  });
  passes.registerPipelineStartEPCallback([](llvm::ModulePassManager& manager, llvm::OptimizationLevel optimisation) {
    if (optimisation == llvm::OptimizationLevel::O0) return;
    llvm::FunctionPassManager first;
    first.addPass(llvm::PromotePass());
    first.addPass(CountFromZeroPass());
    manager.addPass(llvm::createModuleToFunctionPassAdaptor(std::move(first)));
  });
  passes.registerModuleAnalyses(modules);
  passes.registerCGSCCAnalyses(sccs);
  passes.registerFunctionAnalyses(functions);
  passes.registerLoopAnalyses(loops);
  passes.crossRegisterProxies(loops, functions, sccs, modules);
  for (llvm::Function& function : module) {
    if (function.isDeclaration()) continue;
    function.addFnAttr("target-cpu", TargetOf(package::Isa::kX86_64).cpu);
    function.addFnAttr("tune-cpu", kTuning);
    // A call takes stack, also a last one: endless recursion ends in a trap and not in an endless loop.
    function.addFnAttr("disable-tail-calls", "true");
  }
  const llvm::OptimizationLevel levels[] = {llvm::OptimizationLevel::O0, llvm::OptimizationLevel::O1,
                                            llvm::OptimizationLevel::O2, llvm::OptimizationLevel::O3};
  llvm::ModulePassManager manager;
  if (level == 0) {  // Locals must become values all the same: frames hold no stack slots.
    manager.addPass(llvm::createModuleToFunctionPassAdaptor(llvm::PromotePass()));
  } else {
    manager = passes.buildPerModuleDefaultPipeline(levels[level]);
  }
  manager.run(module, modules);
}

Bytes ToBitcode(const llvm::Module& module) {
  llvm::SmallVector<char, 0> buffer;
  llvm::raw_svector_ostream stream(buffer);
  llvm::WriteBitcodeToFile(module, stream);
  return Bytes(buffer.begin(), buffer.end());
}

Result<Bytes> GenerateObject(ByteView bitcode, package::Isa isa, int level) {
  llvm::LLVMContext context;
  auto parsed = llvm::parseBitcodeFile(llvm::MemoryBufferRef(llvm::StringRef(reinterpret_cast<const char*>(bitcode.data()), bitcode.size()), "module"), context);
  if (!parsed) return Internal("reading back bitcode: " + llvm::toString(parsed.takeError()));
  return GenerateObject(**parsed, isa, level);
}

Result<Bytes> GenerateObject(llvm::Module& module, package::Isa isa, int level) {
  const Target target = TargetOf(isa);
  auto machine = MakeTargetMachine(isa, level);
  module.setTargetTriple(target.triple);
  module.setDataLayout(machine->createDataLayout());
  for (llvm::Function& function : module) {
    if (function.isDeclaration()) continue;
    function.addFnAttr("target-cpu", target.cpu);
    function.addFnAttr("tune-cpu", kTuning);
    if (*target.features) function.addFnAttr("target-features", target.features);
    // A frame larger than a page must not step over the stack's guard.
    function.addFnAttr("probe-stack", "inline-asm");
    if (level > 0 && !function.hasSection()) function.setAlignment(llvm::Align(kFunctionAlignment));  // Clones are cold.
  }
  LowerIsaFunctions(module, isa);
  llvm::SmallVector<char, 0> buffer;
  llvm::raw_svector_ostream stream(buffer);
  llvm::legacy::PassManager manager;
  llvm::TargetLibraryInfoImpl library((llvm::Triple(target.triple)));
  library.disableAllFunctions();
  manager.add(new llvm::TargetLibraryInfoWrapperPass(library));
  if (!AddPasses(static_cast<llvm::LLVMTargetMachine&>(*machine), manager, stream)) {
    return Unsupported("no object files for " + std::string(package::IsaName(isa)));
  }
  manager.run(module);
  if (level > 0) return WithColdPartsNamed(buffer);
  return Bytes(buffer.begin(), buffer.end());
}

Result<Bytes> LinkImage(const std::vector<Bytes>& objects, package::Isa isa, const std::string& entry) {
  static std::mutex linker;  // lld keeps global state.
  std::lock_guard lock(linker);
  llvm::SmallString<128> folder;
  if (auto error = llvm::sys::fs::createUniqueDirectory("godwit-link", folder)) {
    return Internal("making a temporary folder: " + error.message());
  }
  const Target target = TargetOf(isa);
  const std::string base(folder.str()), output = base + "/image";
  std::vector<std::string> words{
      "ld.lld", "-m", target.emulation, "-shared", "--no-dynamic-linker", "-Bsymbolic", "--build-id=none", "-z", "keep-text-section-prefix", "-z",
      std::string("max-page-size=") + target.max_page_size, "-z", "text", "--strip-debug", "--threads=1", "-e", entry,
      "-o", output};
  auto link = [&]() -> Result<Bytes> {
    for (std::size_t i = 0; i < objects.size(); ++i) {
      words.push_back(base + "/" + std::to_string(i) + ".o");
      GODWIT_TRY(package::WriteFile(words.back(), objects[i]));
    }
    std::vector<const char*> arguments;
    for (const std::string& word : words) arguments.push_back(word.c_str());
    std::string out, err;
    llvm::raw_string_ostream out_stream(out), err_stream(err);
    const lld::Result linked = lld::lldMain(arguments, out_stream, err_stream, {{lld::Gnu, &lld::elf::link}});
    if (linked.retCode != 0) return Internal("linking: " + err);
    GODWIT_ASSIGN(const package::Blob image, package::MapFile(output, kImageBytesMax));
    return Bytes(image.bytes.begin(), image.bytes.end());
  };
  Result<Bytes> result = link();
  llvm::sys::fs::remove_directories(folder);
  return result;
}

}  // namespace godwit::compiler
