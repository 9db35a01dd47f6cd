#include "runtime/image.h"

#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <span>

#include <fmt/format.h>

namespace godwit::runtime {
namespace {

#if defined(__x86_64__)
constexpr std::uint16_t kMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr std::uint16_t kMachine = EM_AARCH64;
#elif defined(__riscv)
constexpr std::uint16_t kMachine = EM_RISCV;
#endif

Error Bad(std::string_view what) { return Corrupt(fmt::format("native image: {}; build the package again", what)); }

bool Inside(std::uint64_t offset, std::uint64_t bytes, std::uint64_t whole) {
  return offset <= whole && bytes <= whole - offset;
}

// Refuses an image that would need a dynamic linker.
Status CheckDynamic(ByteView file, const Elf64_Phdr& segment) {
  if (!Inside(segment.p_offset, segment.p_filesz, file.size())) return Bad("the dynamic section is outside the file");
  for (std::uint64_t at = 0; at + sizeof(Elf64_Dyn) <= segment.p_filesz; at += sizeof(Elf64_Dyn)) {
    Elf64_Dyn entry;
    std::memcpy(&entry, file.data() + segment.p_offset + at, sizeof entry);
    switch (entry.d_tag) {
      case DT_NULL: return {};
      case DT_NEEDED: return Bad("it needs another library");
      case DT_RELASZ:
      case DT_RELSZ:
      case DT_PLTRELSZ:
      case 35 /* DT_RELRSZ */:
        if (entry.d_un.d_val != 0) return Bad("it has dynamic relocations");
        break;
      case DT_TEXTREL: return Bad("it has text relocations");
      default: break;
    }
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<const Image>> Image::Map(const package::Blob& blob, const fbs::Module& module) {
  std::unique_ptr<Image> image(new Image);
  GODWIT_TRY(image->MapSegments(blob));
  GODWIT_TRY(image->ReadHeader(module));
  image->keep_ = blob.keep;
  return std::unique_ptr<const Image>(std::move(image));
}

Image::~Image() {
  if (base_ != nullptr) munmap(base_, span_);
}

Status Image::MapSegments(const package::Blob& blob) {
  const ByteView file = blob.bytes;
  Elf64_Ehdr header;
  if (file.size() < sizeof header) return Bad("shorter than an ELF header");
  std::memcpy(&header, file.data(), sizeof header);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return Bad("not an ELF file");
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB) {
    return Bad("not a 64-bit little-endian ELF file");
  }
  if (header.e_type != ET_DYN) return Bad("not a position-independent ELF file");
  if (header.e_machine != kMachine) {
    return Unsupported(fmt::format("native image for ELF machine {}, this device is {}", header.e_machine, kMachine));
  }
  if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum == 0 || header.e_phnum > kImageSegmentsMax ||
      !Inside(header.e_phoff, std::uint64_t{header.e_phnum} * sizeof(Elf64_Phdr), file.size())) {
    return Bad("program headers are missing, too many or outside the file");
  }
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  std::vector<Elf64_Phdr> loads;
  std::uint64_t end = 0;
  for (std::uint32_t i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment;
    std::memcpy(&segment, file.data() + header.e_phoff + i * sizeof segment, sizeof segment);
    if (segment.p_type == PT_DYNAMIC) GODWIT_TRY(CheckDynamic(file, segment));
    if (segment.p_type == PT_INTERP || segment.p_type == PT_TLS) return Bad("it needs a dynamic linker");
    if (segment.p_type != PT_LOAD || segment.p_memsz == 0) continue;
    if (segment.p_filesz > segment.p_memsz || !Inside(segment.p_offset, segment.p_filesz, file.size())) {
      return Bad("a segment is outside the file");
    }
    if ((segment.p_flags & PF_W) && (segment.p_flags & PF_X)) return Bad("a segment is writable and executable");
    if (!Inside(segment.p_vaddr, segment.p_memsz, kImageSpanMax)) return Bad("a segment's address is too large");
    // Segments may not share a page, since each has its own protection.
    if (segment.p_vaddr / page * page < end) return Bad("segments overlap or are out of order");
    end = (segment.p_vaddr + segment.p_memsz + page - 1) / page * page;
    loads.push_back(segment);
  }
  if (loads.empty()) return Bad("it has no segments");
  void* base = mmap(nullptr, end, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return ErrnoError("reserving address space for a native image");
  base_ = static_cast<std::uint8_t*>(base);
  span_ = end;
  for (const Elf64_Phdr& segment : loads) {
    const std::uint64_t begin = segment.p_vaddr / page * page;
    const std::uint64_t lead = segment.p_vaddr - begin;
    const std::uint64_t bytes = (lead + segment.p_memsz + page - 1) / page * page;
    // Nothing is writable: an image is shared by all instances.
    const int protection = PROT_READ | ((segment.p_flags & PF_X) ? PROT_EXEC : 0);
    const std::uint64_t file_offset = blob.offset + segment.p_offset;
    const bool mappable = blob.fd >= 0 && segment.p_filesz == segment.p_memsz && segment.p_offset >= lead &&
                          (file_offset - lead) % page == 0;
    if (mappable) {
      if (mmap(base_ + begin, bytes, protection, MAP_PRIVATE | MAP_FIXED, blob.fd,
               static_cast<off_t>(file_offset - lead)) == MAP_FAILED) {
        return ErrnoError("mapping a native image");
      }
    } else {
      if (mprotect(base_ + begin, bytes, PROT_READ | PROT_WRITE) != 0) return ErrnoError("copying a native image");
      std::memcpy(base_ + segment.p_vaddr, file.data() + segment.p_offset, segment.p_filesz);
      if (protection & PROT_EXEC) {
        __builtin___clear_cache(reinterpret_cast<char*>(base_ + begin), reinterpret_cast<char*>(base_ + begin + bytes));
      }
      if (mprotect(base_ + begin, bytes, protection) != 0) return ErrnoError("protecting a native image");
    }
    const Range range{reinterpret_cast<std::uintptr_t>(base_ + segment.p_vaddr), segment.p_memsz};
    readable_.push_back(range);
    if (protection & PROT_EXEC) text_.push_back(range);
  }
  entry_address_ = header.e_entry;
  return {};
}

bool Image::Readable(std::uintptr_t begin, std::uint64_t bytes) const {
  return std::any_of(readable_.begin(), readable_.end(), [&](const Range& range) {
    return begin >= range.begin && Inside(begin - range.begin, bytes, range.bytes);
  });
}

Result<const std::int32_t*> Image::CodeTable(std::int32_t offset, std::uint32_t count, const char* what,
                                             bool may_be_absent) {
  const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(header_) + static_cast<std::intptr_t>(offset);
  if (begin % alignof(std::int32_t) != 0 || !Readable(begin, std::uint64_t{count} * sizeof(std::int32_t))) {
    return Bad(fmt::format("the table of {} is outside it", what));
  }
  const auto* table = reinterpret_cast<const std::int32_t*>(begin);
  for (std::uint32_t i = 0; i < count; ++i) {
    if (table[i] == 0 ? !may_be_absent : !InText(reinterpret_cast<std::uintptr_t>(CodeAt(table[i])))) {
      return Bad(fmt::format("entry {} of the table of {} does not lead to code", i, what));
    }
  }
  return table;
}

Status Image::ReadHeader(const fbs::Module& module) {
  const std::uintptr_t at = reinterpret_cast<std::uintptr_t>(base_) + entry_address_;
  if (entry_address_ >= span_ || at % alignof(abi::ImageHeader) != 0 || !Readable(at, sizeof(abi::ImageHeader))) {
    return Bad("no image header at the entry address");
  }
  header_ = reinterpret_cast<const abi::ImageHeader*>(at);
  if (header_->magic != abi::kImageMagic) return Bad("no image header at the entry address");
  if (header_->abi_version != abi::kAbiVersion) {
    return Unsupported(fmt::format("native image of ABI version {}, this build runs {}; build the package again",
                                   header_->abi_version, abi::kAbiVersion));
  }
  const auto* ir_hash = module.ir_hash();
  if (ir_hash == nullptr || ir_hash->size() != sizeof header_->ir_hash ||
      std::memcmp(ir_hash->data(), header_->ir_hash, sizeof header_->ir_hash) != 0) {
    return FailedPrecondition("native image and module description were built from different code; build the package again");
  }
  const std::uint32_t functions = module.functions() != nullptr && module.functions()->size() != 0
                                      ? module.functions()->size() - 1 : 0;
  const std::uint32_t types = module.types() != nullptr ? module.types()->size() : 0;
  if (header_->function_count != functions || header_->type_count != types) {
    return Bad(fmt::format("it has {} functions and {} types, the module {} and {}", header_->function_count,
                           header_->type_count, functions, types));
  }
  // A function that is never called through a table or an export may have no entry of its own.
  GODWIT_ASSIGN(functions_, CodeTable(header_->functions, functions, "functions", true));
  GODWIT_ASSIGN(resumes_, CodeTable(header_->resumes, functions, "resume clones", true));
  GODWIT_ASSIGN(entries_, CodeTable(header_->entries, types, "entries", true));
  GODWIT_ASSIGN(reentries_, CodeTable(header_->reentries, types, "reentries", true));
  GODWIT_ASSIGN(tails_, CodeTable(header_->tails, functions, "entries for tail calls", true));
  GODWIT_TRY(ReadLines());
  return {};
}

namespace {

// An entry of abi::LineTable.
struct LinePart {
  std::int32_t code;
  std::uint32_t function;
  std::uint32_t rows;
};
struct LineRow {
  std::uint32_t offset, file, line;
};

}  // namespace

// Checks the table once, so that it can be walked.
Status Image::ReadLines() {
  if (header_->lines == 0) return {};
  const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(header_) + static_cast<std::intptr_t>(header_->lines);
  if (begin % alignof(abi::LineTable) != 0 || !Readable(begin, sizeof(abi::LineTable))) return Bad("the line table is outside it");
  const auto* table = reinterpret_cast<const abi::LineTable*>(begin);
  const std::uint64_t strings = table->strings;
  if (!Readable(begin, strings + table->string_bytes) || strings < sizeof(abi::LineTable)) return Bad("the line table is outside it");
  if (table->string_bytes != 0 && *reinterpret_cast<const char*>(begin + strings + table->string_bytes - 1) != 0) {
    return Bad("the line table's names do not end");
  }
  std::uint64_t at = sizeof(abi::LineTable);
  for (std::uint32_t i = 0; i < table->parts; ++i) {
    if (!Inside(at, sizeof(LinePart), strings)) return Bad("the line table is cut off");
    const LinePart& part = *reinterpret_cast<const LinePart*>(begin + at);
    if (part.function >= header_->function_count) return Bad("the line table names a function that is not there");
    at += sizeof part;
    if (!Inside(at, std::uint64_t{part.rows} * sizeof(LineRow), strings)) return Bad("the line table is cut off");
    at += std::uint64_t{part.rows} * sizeof(LineRow);
  }
  lines_ = table;
  return {};
}

namespace {

// Calls each(code, function, rows) for each part of the table, if there is one.
template <typename Each>
void WalkLines(const abi::LineTable* table, Each each) {
  if (table == nullptr) return;
  const auto begin = reinterpret_cast<std::uintptr_t>(table);
  std::uintptr_t at = begin + sizeof *table;
  for (std::uint32_t i = 0; i < table->parts; ++i) {
    const auto& part = *reinterpret_cast<const LinePart*>(at);
    at += sizeof part;
    each(begin + static_cast<std::intptr_t>(part.code), part.function, std::span(reinterpret_cast<const LineRow*>(at), part.rows));
    at += std::uint64_t{part.rows} * sizeof(LineRow);
  }
}

}  // namespace

std::string Image::SourceAt(std::uintptr_t pc) const {
  const LineRow* found = nullptr;
  std::uint64_t nearest = ~0ull;  // Distance from the row's code to `pc`.
  WalkLines(lines_, [&](std::uintptr_t code, std::uint32_t, std::span<const LineRow> rows) {
    if (code > pc || pc - code >= nearest) return;
    const auto after = std::upper_bound(rows.begin(), rows.end(), pc - code,
                                        [](std::uint64_t offset, const LineRow& row) { return offset < row.offset; });
    nearest = pc - code;
    found = after == rows.begin() ? nullptr : &after[-1];
  });
  if (found == nullptr || found->line == 0 || found->file >= lines_->string_bytes) return {};
  return fmt::format("{}:{}", reinterpret_cast<const char*>(lines_) + lines_->strings + found->file, found->line);
}

const std::vector<Image::Named>& Image::names() const {
  std::call_once(names_once_, [this] {
    const auto add = [this](abi::Code code, std::uint32_t function) {
      if (code != nullptr) names_.push_back({reinterpret_cast<std::uintptr_t>(code), function});
    };
    for (std::uint32_t i = 0; i < header_->function_count; ++i) {
      add(function(i), i);
      add(resume(i), i);
      add(CodeAt(tails_[i]), i);
    }
    for (std::uint32_t i = 0; i < header_->type_count; ++i) {
      add(entry(i), ~0u);
      add(reentry(i), ~0u);
    }
    WalkLines(lines_, [&](std::uintptr_t code, std::uint32_t function, std::span<const LineRow>) { names_.push_back({code, function}); });
    std::sort(names_.begin(), names_.end(), [](const Named& a, const Named& b) {
      return a.begin != b.begin ? a.begin < b.begin : a.function < b.function;
    });
  });
  return names_;
}

std::optional<std::uint32_t> Image::FunctionAt(std::uintptr_t pc) const {
  if (!InText(pc)) return std::nullopt;
  const std::vector<Named>& named_code = names();
  auto after = std::upper_bound(named_code.begin(), named_code.end(), pc,
                                [](std::uintptr_t at, const Named& named) { return at < named.begin; });
  if (after == named_code.begin()) return std::nullopt;
  --after;
  if (after->function == ~0u) return std::nullopt;
  return after->function;
}

}  // namespace godwit::runtime
