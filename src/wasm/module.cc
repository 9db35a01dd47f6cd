#include "wasm/module.h"

#include <wabt/binary-reader-ir.h>
#include <wabt/binary-reader.h>
#include <wabt/binary-writer.h>
#include <wabt/error-formatter.h>
#include <wabt/stream.h>
#include <wabt/validator.h>
#include <wabt/wast-lexer.h>
#include <wabt/wast-parser.h>

#include "wasm/element_globals.h"
#include "wasm/features.h"
#include "wasm/strict.h"

namespace godwit::wasm {
namespace {

std::string Describe(const wabt::Errors& errors, wabt::Location::Type type) {
  std::string text = wabt::FormatErrorsToString(errors, type);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text.empty() ? "does not decode" : text;
}

Result<Bytes> TextToBinary(ByteView source, std::string_view name) {
  // Libwabt's lexer does not know that a carriage return alone ends a line, and a comment with it.
  Bytes text(source.begin(), source.end());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r' && (i + 1 == text.size() || text[i + 1] != '\n')) text[i] = '\n';
  }
  wabt::Errors errors;
  auto lexer = wabt::WastLexer::CreateBufferLexer(name, text.data(), text.size(), &errors);
  std::unique_ptr<wabt::Module> module;
  wabt::WastParseOptions options(SupportedFeatures());
  if (wabt::Failed(wabt::ParseWatModule(lexer.get(), &module, &errors, &options))) {
    return InvalidArgument(Describe(errors, wabt::Location::Type::Text));
  }
  const std::vector<ElementGlobal> element_globals = TakeElementGlobals(*module);
  wabt::ValidateOptions validate(SupportedFeatures());
  if (wabt::Failed(wabt::ValidateModule(module.get(), &errors, validate))) {
    return InvalidArgument(Describe(errors, wabt::Location::Type::Text));
  }
  GODWIT_TRY(PutElementGlobals(element_globals, *module));
  wabt::MemoryStream stream;
  wabt::WriteBinaryOptions write(SupportedFeatures(), false, false, true);
  if (wabt::Failed(wabt::WriteBinaryModule(&stream, module.get(), write))) {
    return InvalidArgument(std::string(name) + ": cannot be written as a binary module");
  }
  return std::move(stream.output_buffer().data);
}

// Finds the sections and bodies of a binary that has already been validated.
void FindParts(Module& module) {
  const ByteView binary = module.binary;
  for (std::size_t at = 8; at < binary.size();) {
    const std::uint8_t id = binary[at++];
    const std::uint32_t size = ReadLeb(binary, at);
    module.sections.push_back({id, at, size});
    const std::size_t end = at + size;
    if (id == 10) {
      const std::uint32_t count = ReadLeb(binary, at);
      module.first_body = at;
      for (std::uint32_t i = 0; i < count; ++i) {
        module.body_bytes.push_back(ReadLeb(binary, at));
        at += module.body_bytes.back();
      }
    }
    at = end;
  }
}

Status CheckLimits(const Module& module) {
  const wabt::Module& ir = *module.ir;
  auto number = [](auto n) { return std::to_string(n); };
  if (ir.funcs.size() > kFunctionsMax) {
    return ResourceExhausted("more than " + number(kFunctionsMax) + " functions");
  }
  for (std::size_t i = 0; i < ir.funcs.size(); ++i) {
    const wabt::Func& func = *ir.funcs[i];
    if (func.GetNumParams() > kParametersMax || func.GetNumResults() > kParametersMax) {
      return ResourceExhausted("func[" + number(i) + "] has more than " + number(kParametersMax) + " parameters or results");
    }
    if (func.GetNumLocals() > kLocalsMax) {
      return ResourceExhausted("func[" + number(i) + "] has more than " + number(kLocalsMax) + " locals");
    }
  }
  for (std::size_t i = 0; i < ir.globals.size(); ++i) {
    if (ir.globals[i]->init_expr.size() > kInitialiserStepsMax) {
      return ResourceExhausted("global[" + number(i) + "] is initialised in more than " + number(kInitialiserStepsMax) + " steps");
    }
  }
  for (const wabt::DataSegment* segment : ir.data_segments) {
    if (segment->offset.size() > kInitialiserStepsMax) return ResourceExhausted("a data segment's offset has more than " + number(kInitialiserStepsMax) + " steps");
  }
  for (const wabt::ElemSegment* segment : ir.elem_segments) {
    if (segment->offset.size() > kInitialiserStepsMax) return ResourceExhausted("an element segment's offset has more than " + number(kInitialiserStepsMax) + " steps");
  }
  if (ir.memories.size() > 1) return Unsupported("more than one memory (multi-memory)");
  for (std::size_t i = 0; i < ir.tags.size(); ++i) {
    if (ir.tags[i]->decl.sig.param_types.size() <= kTagParametersMax) continue;
    return ResourceExhausted("tag[" + number(i) + "] has more than " + number(kTagParametersMax) + " parameters");
  }
  for (const wabt::Memory* memory : ir.memories) {
    if (memory->page_limits.is_64) return Unsupported("64-bit memory (memory64)");
    if (memory->page_limits.is_shared) return Unsupported("shared memory (threads)");
  }
  return {};
}

}  // namespace

std::uint32_t ReadLeb(ByteView bytes, std::size_t& at) {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 35 && at < bytes.size(); shift += 7) {
    const std::uint8_t byte = bytes[at++];
    value |= std::uint64_t(byte & 0x7f) << shift;
    if (!(byte & 0x80)) break;
  }
  return static_cast<std::uint32_t>(value);
}

std::string Module::FunctionName(std::uint32_t index) const {
  const std::string& name = ir->funcs[index]->name;
  return name.starts_with('$') ? name.substr(1) : name;
}

Result<Module> Read(ByteView source, std::string_view name) {
  const std::string context(name);
  if (source.size() > kModuleBytesMax) return ResourceExhausted(context + ": larger than 256 MiB");
  Module module;
  const bool binary = source.size() >= 4 && source[0] == 0 && source[1] == 'a' && source[2] == 's' && source[3] == 'm';
  if (binary) {
    module.binary.assign(source.begin(), source.end());
  } else {
    GODWIT_ASSIGN(module.binary, TextToBinary(source, name));
  }
  if (auto framed = CheckSections(module.binary); !framed.ok()) return framed.error().Within(context);
  if (auto sized = CheckSize(module.binary); !sized.ok()) return sized.error().Within(context);
  Bytes binary_read = module.binary;
  auto element_globals = TakeElementGlobals(binary_read);
  if (!element_globals.ok()) return element_globals.error().Within(context);
  wabt::Errors errors;
  module.ir = std::make_unique<wabt::Module>();
  wabt::ReadBinaryOptions options(SupportedFeatures(), nullptr, /*read_debug_names=*/true,
                                  /*stop_on_first_error=*/true, /*fail_on_custom_section_error=*/false);
  if (wabt::Failed(wabt::ReadBinaryIr(context.c_str(), binary_read.data(), binary_read.size(), options, &errors,
                                      module.ir.get()))) {
    return InvalidArgument(context + ": " + Describe(errors, wabt::Location::Type::Binary));
  }
  if (auto limits = CheckLimits(module); !limits.ok()) return limits.error().Within(context);
  wabt::ValidateOptions validate(SupportedFeatures());
  if (wabt::Failed(wabt::ValidateModule(module.ir.get(), &errors, validate))) {
    return InvalidArgument(context + ": " + Describe(errors, wabt::Location::Type::Binary));
  }
  if (auto put = PutElementGlobals(*element_globals, *module.ir); !put.ok()) return put.error().Within(context);
  if (auto checked = CheckInstructions(binary_read); !checked.ok()) return checked.error().Within(context);
  FindParts(module);
  module.uses = FindUses(*module.ir);
  return module;
}

}  // namespace godwit::wasm
