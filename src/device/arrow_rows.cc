// Apache Arrow's IPC format: metadata is verified before it is read, and buffers are checked against what metadata says of them.
#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>

#include <fmt/format.h>
#include <lz4frame.h>
#include <zstd.h>

#include "device/arrow_generated.h"
#include "device/rows.h"

namespace godwit::device {
namespace {

constexpr std::string_view kFileMagic = "ARROW1";
constexpr std::uint64_t kFileBegin = 8;  // Of a file's messages.
constexpr std::size_t kMetadataBytesMax = 4 << 20;
constexpr std::size_t kFieldsMax = 16384, kDictionariesMax = 256, kDictionaryBytesMax = 32 << 20;
constexpr std::int64_t kRowsMax = std::int64_t{1} << 31;
constexpr std::int64_t kDayMs = 86'400'000;
// A view: its length, then as many bytes if they are at most kInlineBytes, or 4 bytes of prefix, the number of a buffer and an offset in it.
constexpr std::size_t kViewBytes = 16, kInlineBytes = 12;
constexpr std::uint32_t kContinuation = 0xffffffff;

Error Malformed(std::uint64_t at, const std::string& what) { return InvalidArgument(fmt::format("Arrow message at byte {}: {}", at, what)); }

template <typename T>
T Load(const std::uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// An element of a vector that was verified, wherever it lies: some writers align what needs 8 bytes to 4.
template <typename T, typename Vector>
T At(const Vector& vector, std::size_t index) {
  return Load<T>(vector.Data() + index * sizeof(T));
}

// Elements of `width` bytes, copied or where they lie.
struct Buffer {
  ByteView bytes;
  Bytes scratch;
};

enum class Layout : std::uint8_t { kInt, kUint, kFloat, kDouble, kBool, kDecimal, kDays, kMilliseconds, kText, kLargeText, kTextView };

// How a wanted column lies in record batches.
struct Wanted {
  std::size_t column = 0;            // Of the table's format.
  Layout layout = Layout::kInt;      // Of a dictionary's indices, where it has one.
  std::size_t width = 0;             // Bytes of an element, of an offset or of a view; 0: bits.
  std::size_t node = 0, buffer = 0;  // Its first in a record batch, but for what views have beyond two buffers each.
  std::size_t views = 0;             // Columns of views before it.
  std::optional<std::int64_t> dictionary;
  Buffer elements;
  std::vector<Buffer> texts;         // One; of views as many as the record batch says.
  Buffer validity;                   // A bit an element, 0 of a null; empty: there are none.
};

struct Dictionary {
  Layout layout = Layout::kText;
  std::deque<Wanted> parts;  // Where the texts are.
  std::vector<std::string_view> texts;
};

// All of `from`, which is to be as long as `to`. LZ4: one frame.
bool Decompress(arrow::CompressionType codec, ByteView from, std::span<std::uint8_t> to) {
  if (codec == arrow::CompressionType::ZSTD) return ZSTD_decompress(to.data(), to.size(), from.data(), from.size()) == to.size();
  LZ4F_dctx* context = nullptr;
  if (LZ4F_isError(LZ4F_createDecompressionContext(&context, LZ4F_VERSION))) return false;
  const std::unique_ptr<LZ4F_dctx, decltype(&LZ4F_freeDecompressionContext)> owner(context, LZ4F_freeDecompressionContext);
  for (;;) {
    std::size_t read = from.size(), wrote = to.size();
    const std::size_t more = LZ4F_decompress(context, to.data(), &wrote, from.data(), &read, nullptr);
    if (LZ4F_isError(more)) return false;
    from = from.subspan(read);
    to = to.subspan(wrote);
    if (more == 0) return from.empty() && to.empty();
    if (read == 0 && wrote == 0) return false;  // It is cut short, or longer.
  }
}

using Metadata = std::vector<std::uint64_t>;  // Aligned as the verifier wants it.

struct Message {
  const arrow::Message* of = nullptr;  // In `metadata`.
  Metadata metadata;
  std::uint64_t begin = 0, body = 0, end = 0;
};

// In a copy of `bytes`; null if they are none.
template <typename Table>
const Table* Verified(ByteView bytes, Metadata* copy) {
  if (bytes.empty()) return nullptr;
  copy->assign((bytes.size() + 7) / 8, 0);
  std::memcpy(copy->data(), bytes.data(), bytes.size());
  const auto* data = reinterpret_cast<const std::uint8_t*>(copy->data());
  flatbuffers::Verifier verifier(data, bytes.size(), 64, kFieldsMax * 8);
  return verifier.VerifyBuffer<Table>(nullptr) ? flatbuffers::GetRoot<Table>(data) : nullptr;
}

// Nodes, buffers and columns of views that a field and what is below it have in a record batch.
void Count(const arrow::Field& field, bool unions_have_validity, std::size_t* nodes, std::size_t* buffers, std::size_t* views) {
  ++*nodes;
  if (field.dictionary() != nullptr) {
    *buffers += 2;
    return;
  }
  switch (field.type_type()) {
    case arrow::Type::Null:
    case arrow::Type::RunEndEncoded: break;
    case arrow::Type::Struct_:
    case arrow::Type::FixedSizeList: *buffers += 1; break;
    case arrow::Type::Union: {
      const auto* of = field.type_as_Union();
      *buffers += (of != nullptr && of->mode() == arrow::UnionMode::Dense ? 2 : 1) + (unions_have_validity ? 1 : 0);
      break;
    }
    case arrow::Type::Binary:
    case arrow::Type::Utf8:
    case arrow::Type::LargeBinary:
    case arrow::Type::LargeUtf8: *buffers += 3; break;
    case arrow::Type::BinaryView:
    case arrow::Type::Utf8View: ++*views; [[fallthrough]];
    default: *buffers += 2;
  }
  if (field.children() == nullptr) return;
  for (const auto* child : *field.children()) Count(*child, unions_have_validity, nodes, buffers, views);
}

bool KnownTypes(const arrow::Field& field) {
  if (field.type_type() < arrow::Type::Null || field.type_type() > arrow::Type::Utf8View) return false;
  if (field.type_type() != arrow::Type::NONE && field.type() == nullptr) return false;
  if (field.children() == nullptr) return true;
  return std::all_of(field.children()->begin(), field.children()->end(), [](const auto* child) { return KnownTypes(*child); });
}

bool IntLayout(const arrow::Int* type, Wanted* wanted) {
  if (type == nullptr) return false;
  const int bits = type->bitWidth();
  if (bits != 8 && bits != 16 && bits != 32 && bits != 64) return false;
  wanted->layout = type->is_signed() ? Layout::kInt : Layout::kUint;
  wanted->width = static_cast<std::size_t>(bits) / 8;
  return true;
}

// False: no layout for that type.
bool LayoutOf(const arrow::Field& field, const Type& type, Wanted* wanted) {
  const auto is = [&](Layout layout, std::size_t width) {
    wanted->layout = layout;
    wanted->width = width;
    return true;
  };
  switch (field.type_type()) {
    case arrow::Type::Int: return type == Type{TypeKind::kNumber, 0} && IntLayout(field.type_as_Int(), wanted);
    case arrow::Type::Timestamp:
    case arrow::Type::Duration: return type == Type{TypeKind::kNumber, 0} && is(Layout::kInt, 8);
    case arrow::Type::Time:
      return type == Type{TypeKind::kNumber, 0} && is(Layout::kInt, field.type_as_Time()->bitWidth() == 64 ? 8 : 4);
    case arrow::Type::Bool: return type == Type{TypeKind::kNumber, 0} && is(Layout::kBool, 0);
    case arrow::Type::FloatingPoint:
      if (type.kind != TypeKind::kReal) return false;
      if (field.type_as_FloatingPoint()->precision() == arrow::Precision::SINGLE) return is(Layout::kFloat, 4);
      return field.type_as_FloatingPoint()->precision() == arrow::Precision::DOUBLE && is(Layout::kDouble, 8);
    case arrow::Type::Decimal: {
      const auto* decimal = field.type_as_Decimal();
      return type == Type{TypeKind::kNumber, decimal->scale()} && decimal->bitWidth() == 128 && is(Layout::kDecimal, 16);
    }
    case arrow::Type::Date:
      if (type.kind != TypeKind::kDate) return false;
      return field.type_as_Date()->unit() == arrow::DateUnit::DAY ? is(Layout::kDays, 4) : is(Layout::kMilliseconds, 8);
    case arrow::Type::Utf8:
    case arrow::Type::Binary: return type.kind == TypeKind::kText && is(Layout::kText, 4);
    case arrow::Type::LargeUtf8:
    case arrow::Type::LargeBinary: return type.kind == TypeKind::kText && is(Layout::kLargeText, 8);
    case arrow::Type::BinaryView:
    case arrow::Type::Utf8View: return type.kind == TypeKind::kText && is(Layout::kTextView, kViewBytes);
    default: return false;
  }
}

bool IsText(Layout layout) { return layout == Layout::kText || layout == Layout::kLargeText || layout == Layout::kTextView; }

// Texts [from, from + count) of an array, by its views or offsets. False: they are outside of its buffers.
bool AppendTexts(const Wanted& of, std::size_t from, std::size_t count, std::vector<std::string_view>* to) {
  if (of.layout == Layout::kTextView) {
    for (std::size_t i = from; i < from + count; ++i) {
      const std::uint8_t* view = of.elements.bytes.data() + i * kViewBytes;
      const std::uint32_t bytes = Load<std::uint32_t>(view), buffer = Load<std::uint32_t>(view + 8), begin = Load<std::uint32_t>(view + 12);
      if (bytes <= kInlineBytes) {
        to->push_back(AsText(ByteView(view + 4, bytes)));
        continue;
      }
      if (buffer >= of.texts.size() || begin > of.texts[buffer].bytes.size() || bytes > of.texts[buffer].bytes.size() - begin) return false;
      to->push_back(AsText(of.texts[buffer].bytes.subspan(begin, bytes)));
    }
    return true;
  }
  const std::string_view text = AsText(of.texts[0].bytes);
  const auto all = [&](auto zero) {
    using Offset = decltype(zero);
    const std::uint8_t* offsets = of.elements.bytes.data() + from * sizeof(Offset);
    for (std::size_t i = 0; i < count; ++i) {
      const auto begin = Load<Offset>(offsets + i * sizeof(Offset)), end = Load<Offset>(offsets + (i + 1) * sizeof(Offset));
      if (begin < 0 || end < begin || static_cast<std::uint64_t>(end) > text.size()) return false;
      to->push_back(text.substr(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)));
    }
    return true;
  };
  return of.layout == Layout::kText ? all(std::int32_t{0}) : all(std::int64_t{0});
}

class ArrowRows final : public Rows {
 public:
  ArrowRows(RowsOptions options, Arguments* saved) : options_(std::move(options)) {
    if (saved == nullptr) return;
    position_ = saved->Number("position", 0, 0, ~0ull);
    row_ = saved->Number("row", 0, 0, static_cast<std::uint64_t>(kRowsMax));
    for (const auto& at : saved->List("dictionaries", kDictionariesMax)) {
      if (at.is_number_unsigned()) dictionaries_at_.push_back(at.get<std::uint64_t>());
      else saved->Fail("dictionaries", "must be a list of numbers");
    }
    goes_on_ = true;
  }

  Result<bool> Next(const Source& source, Batch* to) override {
    if (!opened_) GODWIT_TRY(Open(source));
    while (row_ >= rows_) {
      GODWIT_ASSIGN(const bool more, NextBatch(source, 0));
      if (!more) return false;
    }
    StartBatch(options_.format, to);
    const std::size_t count = static_cast<std::size_t>(std::min<std::uint64_t>(TableReader::kBatchRows, rows_ - row_));
    for (const Wanted& wanted : wanted_) GODWIT_TRY(Fill(wanted, static_cast<std::size_t>(row_), count, &to->columns[wanted.column]));
    to->rows = count;
    row_ += count;
    return true;
  }
  bool between() const override { return true; }
  nlohmann::json Save() const override { return {{"position", position_}, {"row", row_}, {"dictionaries", dictionaries_at_}}; }
  std::uint64_t read_bytes() const override { return read_bytes_; }

 private:
  // The schema, and what came before where it goes on.
  Status Open(const Source& source) {
    Bytes scratch;
    GODWIT_ASSIGN(const ByteView magic, source.Window(0, kFileMagic.size(), scratch));
    std::uint64_t begin = kFileBegin;
    if (AsText(magic) == kFileMagic) {
      GODWIT_TRY(ReadFooter(source));
    } else {
      Message first;
      GODWIT_ASSIGN(const bool is, Read(source, 0, &first));
      if (!is || first.of->header_type() != arrow::MessageHeader::Schema) return Malformed(0, "a stream of Arrow's IPC format begins with a schema");
      GODWIT_TRY(ReadSchema(first.of->header_as_Schema(), first.of->version()));
      begin = first.end;
    }
    opened_ = true;
    if (!goes_on_) {
      position_ = begin;
      return {};
    }
    if (position_ < begin) return Malformed(position_, "the state to go on from is of another table");
    const std::vector<std::uint64_t> known = std::exchange(dictionaries_at_, {});
    for (const std::uint64_t at : known) {
      Message message;
      GODWIT_ASSIGN(const bool there, Read(source, at, &message));
      if (!there || message.of->header_type() != arrow::MessageHeader::DictionaryBatch) return Malformed(at, "the state to go on from names a dictionary here");
      GODWIT_TRY(ReadDictionary(source, message));
    }
    if (row_ == 0) return {};
    const std::uint64_t row = std::exchange(row_, 0);
    GODWIT_ASSIGN(const bool there, NextBatch(source, row));
    return there ? Status() : Status(Malformed(position_, "the state to go on from names a record batch here"));
  }

  // False at the end. Nothing but the metadata is read.
  Result<bool> Read(const Source& source, std::uint64_t at, Message* message) {
    Bytes scratch;
    GODWIT_ASSIGN(const ByteView head, source.Window(at, 8, scratch));
    if (head.empty()) return false;
    if (head.size() < 8) return Malformed(at, "it is cut short");
    if (Load<std::uint32_t>(head.data()) != kContinuation) return Malformed(at, "no Arrow IPC message begins here, or one of a version before 0.15");
    const std::uint32_t size = Load<std::uint32_t>(head.data() + 4);
    if (size == 0) return false;
    if (size > kMetadataBytesMax) return Malformed(at, fmt::format("more than {} bytes of metadata", kMetadataBytesMax));
    GODWIT_ASSIGN(const ByteView bytes, source.Window(at + 8, size, scratch));
    if (bytes.size() < size) return Malformed(at, "it is cut short");
    message->of = Verified<arrow::Message>(bytes, &message->metadata);
    if (message->of == nullptr) return Malformed(at, "its metadata is malformed");
    if (message->of->version() < arrow::MetadataVersion::V4) return Malformed(at, "its version is older than 4");
    const std::int64_t body = message->of->bodyLength();
    message->begin = at;
    message->body = at + 8 + size;
    if (body < 0 || message->body > source.size() || static_cast<std::uint64_t>(body) > source.size() - message->body) return Malformed(at, "its body is cut short");
    message->end = message->body + static_cast<std::uint64_t>(body);
    return true;
  }

  // At a file's end: the footer, its size, the magic. Its schema is the only one that all writers give.
  Status ReadFooter(const Source& source) {
    const std::uint64_t tail = 4 + kFileMagic.size();
    const auto bad = [](const std::string& what) { return InvalidArgument("the Arrow file's footer " + what); };
    if (source.size() < kFileBegin + tail) return bad("is missing");
    Bytes scratch;
    GODWIT_ASSIGN(const ByteView end, source.Window(source.size() - tail, tail, scratch));
    if (end.size() != tail || AsText(end).substr(4) != kFileMagic) return bad("is missing; is the file cut short?");
    const std::uint32_t size = Load<std::uint32_t>(end.data());
    if (size > kMetadataBytesMax || size > source.size() - kFileBegin - tail) return bad("has a wrong size");
    GODWIT_ASSIGN(const ByteView bytes, source.Window(source.size() - tail - size, size, scratch));
    Metadata metadata;
    const auto* footer = bytes.size() == size ? Verified<arrow::Footer>(bytes, &metadata) : nullptr;
    if (footer == nullptr) return bad("is malformed");
    return ReadSchema(footer->schema(), footer->version());
  }

  Status ReadSchema(const arrow::Schema* schema, arrow::MetadataVersion version) {
    if (schema == nullptr || schema->fields() == nullptr || schema->fields()->size() > kFieldsMax) return InvalidArgument("the Arrow schema has no fields, or too many");
    if (schema->endianness() != arrow::Endianness::Little) return InvalidArgument("big-endian Arrow data is not supported");
    std::size_t nodes = 0, buffers = 0, views = 0;
    std::vector<bool> found(options_.format.columns.size());
    for (const auto* field : *schema->fields()) {
      if (!KnownTypes(*field)) return InvalidArgument("the Arrow schema has a type that is not supported (a view of lists)");
      const std::string name = field->name() != nullptr ? field->name()->str() : "";
      for (std::size_t i = 0; i < found.size(); ++i) {
        const ColumnDescription& column = options_.format.columns[i];
        if (column.name != name || found[i]) continue;
        found[i] = true;
        if (!options_.needed[i]) continue;
        Wanted wanted{.column = i, .node = nodes, .buffer = buffers, .views = views};
        bool fits = LayoutOf(*field, column.type, &wanted);
        if (const auto* dictionary = field->dictionary(); fits && dictionary != nullptr) {
          wanted.dictionary = dictionary->id();
          fits = IsText(wanted.layout);
          dictionaries_[dictionary->id()].layout = wanted.layout;
          wanted.layout = Layout::kInt;  // Of 32 bits where the schema does not say.
          wanted.width = 4;
          if (dictionary->indexType() != nullptr) fits = fits && IntLayout(dictionary->indexType(), &wanted);
        }
        if (!fits) {
          return InvalidArgument(fmt::format("column '{}' of type {} is {}{} in the Arrow schema", name, ToString(column.type),
                                             arrow::EnumNameType(field->type_type()), field->dictionary() != nullptr ? " with a dictionary" : ""));
        }
        wanted_.push_back(std::move(wanted));
      }
      Count(*field, version == arrow::MetadataVersion::V4, &nodes, &buffers, &views);
    }
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (!found[i] && options_.needed[i]) return InvalidArgument(fmt::format("the Arrow schema has no column '{}'", options_.format.columns[i].name));
    }
    return {};
  }

  // To the next record batch of the part, from whose row `row` on it goes on.
  Result<bool> NextBatch(const Source& source, std::uint64_t row) {
    if (next_ != 0) {
      read_bytes_ += next_ - position_;
      position_ = next_;
    }
    rows_ = row_ = 0;
    for (;;) {
      next_ = 0;
      if (position_ >= options_.part.end) return false;
      Message message;
      GODWIT_ASSIGN(const bool more, Read(source, position_, &message));
      if (!more) return false;
      if (message.of->header_type() == arrow::MessageHeader::DictionaryBatch) {
        GODWIT_TRY(ReadDictionary(source, message));
      } else if (message.of->header_type() == arrow::MessageHeader::RecordBatch && position_ >= options_.part.begin) {
        GODWIT_TRY(ReadBatch(source, message));
        if (row > rows_) return Malformed(position_, "the state to go on from is behind this record batch");
        row_ = row;
        next_ = message.end;
        return true;
      }
      read_bytes_ += message.end - position_;
      position_ = message.end;
    }
  }

  // The elements of `wanted` in a record batch that is to have `rows`.
  Status ReadArray(const Source& source, const Message& message, const arrow::RecordBatch& batch, std::int64_t rows, Wanted* wanted, std::size_t* held) {
    const auto bad = [&](std::string_view what) {
      return Malformed(message.begin, fmt::format("column '{}': {}", options_.format.columns[wanted->column].name, what));
    };
    const auto* nodes = batch.nodes();
    const auto* buffers = batch.buffers();
    const bool view = wanted->layout == Layout::kTextView, offsets = IsText(wanted->layout) && !view;
    const auto* more = batch.variadicBufferCounts();
    std::size_t first = wanted->buffer, texts = offsets ? 1 : 0;
    for (std::size_t i = 0; i < wanted->views + (view ? 1 : 0); ++i) {
      const std::int64_t count = more != nullptr && i < more->size() ? At<std::int64_t>(*more, i) : -1;
      if (count < 0 || buffers == nullptr || static_cast<std::uint64_t>(count) > buffers->size()) return bad("a column of views does not say how many buffers it has");
      (i < wanted->views ? first : texts) += static_cast<std::size_t>(count);
    }
    if (nodes == nullptr || buffers == nullptr || wanted->node >= nodes->size() || first + 2 + texts > buffers->size()) return bad("it lacks buffers");
    const auto node = At<arrow::FieldNode>(*nodes, wanted->node);
    if (node.length() != rows) return bad("its length is not the record batch's");
    const auto load = [&](std::size_t index, std::uint64_t least, Buffer* to) -> Status {
      const auto buffer = At<arrow::Buffer>(*buffers, index);
      const std::uint64_t size = message.end - message.body;
      if (buffer.offset() < 0 || buffer.length() < 0 || static_cast<std::uint64_t>(buffer.offset()) > size ||
          static_cast<std::uint64_t>(buffer.length()) > size - static_cast<std::uint64_t>(buffer.offset())) {
        return bad("a buffer is outside of its message");
      }
      const auto hold = [&](std::uint64_t bytes) -> Status {
        if (bytes <= kArrowBatchBytesMax && (*held += bytes) <= kArrowBatchBytesMax) return {};
        return bad(fmt::format("more than {} bytes of the columns needed are in one record batch; write smaller ones", kArrowBatchBytesMax));
      };
      const auto length = static_cast<std::uint64_t>(buffer.length());
      GODWIT_TRY(hold(length));
      GODWIT_ASSIGN(to->bytes, source.Window(message.body + static_cast<std::uint64_t>(buffer.offset()), length, to->scratch));
      if (to->bytes.size() != length) return bad("a buffer is cut short");
      if (batch.compression() != nullptr && length != 0) {
        // Its length before it was compressed; -1: it was not.
        std::int64_t plain = 0;
        if (length < sizeof plain || (plain = Load<std::int64_t>(to->bytes.data())) < -1) return bad("a compressed buffer has no length");
        to->bytes = to->bytes.subspan(sizeof plain);
        if (plain >= 0) {
          GODWIT_TRY(hold(static_cast<std::uint64_t>(plain)));
          Bytes decompressed(static_cast<std::size_t>(plain));
          if (!Decompress(batch.compression()->codec(), to->bytes, decompressed)) return bad("a compressed buffer is damaged");
          to->scratch = std::move(decompressed);
          to->bytes = to->scratch;
        }
      }
      return to->bytes.size() >= least ? Status() : Status(bad("a buffer is too short for its rows"));
    };
    const auto count = static_cast<std::uint64_t>(rows);
    wanted->validity.bytes = {};
    if (node.null_count() != 0) GODWIT_TRY(load(first, (count + 7) / 8, &wanted->validity));
    const std::uint64_t least = offsets ? (count == 0 ? 0 : (count + 1) * wanted->width) : wanted->width == 0 ? (count + 7) / 8 : count * wanted->width;
    GODWIT_TRY(load(first + 1, least, &wanted->elements));
    wanted->texts.resize(texts);
    for (std::size_t i = 0; i < texts; ++i) GODWIT_TRY(load(first + 2 + i, 0, &wanted->texts[i]));
    return {};
  }

  Result<std::int64_t> RowsOf(const Message& message, const arrow::RecordBatch* batch) {
    if (batch == nullptr || batch->length() < 0 || batch->length() > kRowsMax) return Malformed(message.begin, "its record batch is malformed");
    if (const auto* how = batch->compression(); how != nullptr && (how->codec() > arrow::CompressionType::MAX || how->method() != arrow::BodyCompressionMethod::BUFFER)) {
      return Malformed(message.begin, "its buffers are compressed in a way that is not known; LZ4 frames and Zstandard are");
    }
    return batch->length();
  }

  Status ReadBatch(const Source& source, const Message& message) {
    const auto* batch = message.of->header_as_RecordBatch();
    GODWIT_ASSIGN(const std::int64_t rows, RowsOf(message, batch));
    std::size_t held = 0;
    for (Wanted& wanted : wanted_) GODWIT_TRY(ReadArray(source, message, *batch, rows, &wanted, &held));
    rows_ = static_cast<std::uint64_t>(rows);
    return {};
  }

  Status ReadDictionary(const Source& source, const Message& message) {
    const auto* header = message.of->header_as_DictionaryBatch();
    if (header == nullptr || header->data() == nullptr) return Malformed(message.begin, "its dictionary is malformed");
    const auto found = dictionaries_.find(header->id());
    if (found == dictionaries_.end()) return {};  // Of a column that nobody needs.
    if (dictionaries_at_.size() >= kDictionariesMax) return Malformed(message.begin, fmt::format("more than {} dictionaries", kDictionariesMax));
    Dictionary& dictionary = found->second;
    GODWIT_ASSIGN(const std::int64_t rows, RowsOf(message, header->data()));
    if (!header->isDelta()) {
      dictionary.parts.clear();
      dictionary.texts.clear();
    }
    Wanted texts{.layout = dictionary.layout, .width = dictionary.layout == Layout::kText ? 4 : dictionary.layout == Layout::kLargeText ? 8 : kViewBytes};
    for (const Wanted& wanted : wanted_) {
      if (wanted.dictionary == header->id()) texts.column = wanted.column;
    }
    std::size_t held = 0;
    for (const auto& [id, other] : dictionaries_) {
      for (const Wanted& part : other.parts) {
        for (const Buffer& text : part.texts) held += text.bytes.size();
      }
    }
    if (held > kDictionaryBytesMax) return Malformed(message.begin, fmt::format("dictionaries of more than {} bytes", kDictionaryBytesMax));
    GODWIT_TRY(ReadArray(source, message, *header->data(), rows, &texts, &held));
    if (!texts.validity.bytes.empty()) return Malformed(message.begin, "its dictionary has nulls; only the indices to it may");
    if (!AppendTexts(texts, 0, static_cast<std::size_t>(rows), &dictionary.texts)) return Malformed(message.begin, "a text of its dictionary is outside of its buffer");
    dictionary.parts.push_back(std::move(texts));
    dictionaries_at_.push_back(message.begin);
    return {};
  }

  Status Fill(const Wanted& wanted, std::size_t from, std::size_t count, Column* to) const {
    const auto bad = [&](std::string_view what) {
      return Malformed(position_, fmt::format("column '{}', rows from {} on: {}", options_.format.columns[wanted.column].name, from, what));
    };
    const std::uint8_t* elements = wanted.elements.bytes.data();
    if (const ByteView valid = wanted.validity.bytes; !valid.empty()) {
      to->nulls.resize(count);
      for (std::size_t i = 0; i < count; ++i) to->nulls[i] = (valid[(from + i) / 8] >> ((from + i) % 8) & 1) == 0;
    }
    const auto numbers = [&](auto zero, std::int64_t divisor) {
      using Element = decltype(zero);
      to->numbers.resize(count);
      for (std::size_t i = 0; i < count; ++i) to->numbers[i] = static_cast<std::int64_t>(Load<Element>(elements + (from + i) * sizeof(Element))) / divisor;
    };
    switch (wanted.layout) {
      case Layout::kInt:
        if (wanted.width == 1) numbers(std::int8_t{0}, 1);
        else if (wanted.width == 2) numbers(std::int16_t{0}, 1);
        else if (wanted.width == 4) numbers(std::int32_t{0}, 1);
        else numbers(std::int64_t{0}, 1);
        break;
      case Layout::kUint:
        if (wanted.width == 1) numbers(std::uint8_t{0}, 1);
        else if (wanted.width == 2) numbers(std::uint16_t{0}, 1);
        else if (wanted.width == 4) numbers(std::uint32_t{0}, 1);
        else numbers(std::uint64_t{0}, 1);
        for (std::size_t i = 0; wanted.width == 8 && i < count; ++i) {
          if (to->numbers[i] < 0 && !to->IsNull(i)) return bad("a number is larger than 63 bits hold");
        }
        break;
      case Layout::kDays: numbers(std::int32_t{0}, 1); break;
      case Layout::kMilliseconds: numbers(std::int64_t{0}, kDayMs); break;
      case Layout::kBool:
        for (std::size_t i = from; i < from + count; ++i) to->numbers.push_back(elements[i / 8] >> (i % 8) & 1);
        break;
      case Layout::kDecimal:
        for (std::size_t i = from; i < from + count; ++i) {
          const auto low = Load<std::int64_t>(elements + i * 16), high = Load<std::int64_t>(elements + i * 16 + 8);
          if (high != low >> 63 && !to->IsNull(i - from)) return bad("a decimal is larger than 63 bits hold");
          to->numbers.push_back(low);
        }
        break;
      case Layout::kFloat:
        for (std::size_t i = from; i < from + count; ++i) to->reals.push_back(static_cast<double>(Load<float>(elements + i * 4)));
        break;
      case Layout::kDouble:
        to->reals.resize(count);
        std::memcpy(to->reals.data(), elements + from * 8, count * 8);
        break;
      case Layout::kText:
      case Layout::kLargeText:
      case Layout::kTextView:
        if (!AppendTexts(wanted, from, count, &to->texts)) return bad("a text is outside of its buffer");
    }
    // What lies in the place of a null may be anything.
    for (std::size_t i = 0; i < to->nulls.size(); ++i) {
      if (to->nulls[i] == 0) continue;
      if (!to->numbers.empty()) to->numbers[i] = 0;
      if (!to->reals.empty()) to->reals[i] = 0;
      if (!to->texts.empty()) to->texts[i] = {};
    }
    if (!wanted.dictionary) return {};
    const std::vector<std::string_view>& texts = dictionaries_.at(*wanted.dictionary).texts;
    for (std::size_t i = 0; i < count; ++i) {
      const std::int64_t index = to->numbers[i];
      if (to->IsNull(i)) {
        to->texts.emplace_back();
        continue;
      }
      if (index < 0 || static_cast<std::uint64_t>(index) >= texts.size()) return bad("an index is outside of its dictionary");
      to->texts.push_back(texts[static_cast<std::size_t>(index)]);
    }
    to->numbers.clear();
    return {};
  }

  const RowsOptions options_;
  bool opened_ = false, goes_on_ = false;
  std::vector<Wanted> wanted_;
  std::map<std::int64_t, Dictionary> dictionaries_;  // Of wanted columns.
  std::vector<std::uint64_t> dictionaries_at_;       // Messages of them so far.
  std::uint64_t position_ = 0;                       // Of the record batch's message, or of the next one.
  std::uint64_t next_ = 0;                           // Behind the record batch; 0: there is none.
  std::uint64_t rows_ = 0, row_ = 0;                 // Of the record batch; given out.
  std::uint64_t read_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Rows> MakeArrowRows(RowsOptions options, Arguments* saved) { return std::make_unique<ArrowRows>(std::move(options), saved); }

}  // namespace godwit::device
