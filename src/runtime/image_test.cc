#include "runtime/image.h"

#include <elf.h>
#include <gtest/gtest.h>

#include <cstring>

#include "runtime/guest_fixture.h"

namespace godwit::runtime {
namespace {

class ImageTest : public ::testing::Test {
 protected:
  ImageTest() {
    static const Bytes compiled = test::CompileGuest();
    static const Bytes described = test::DescribeGuest();
    image = compiled;
    description = described;
  }

  const fbs::Module& module() const { return *fbs::GetModule(description.data()); }
  Result<std::unique_ptr<const Image>> Map() const {
    package::Blob blob;
    blob.bytes = image;
    return Image::Map(blob, module());
  }
  void ExpectRefused(ErrorCode code, const char* what) const {
    const auto mapped = Map();
    ASSERT_FALSE(mapped.ok()) << what;
    EXPECT_EQ(mapped.error().code, code) << what << ": " << mapped.error().message;
  }
  Elf64_Ehdr& header() { return *reinterpret_cast<Elf64_Ehdr*>(image.data()); }
  Elf64_Phdr* segments() { return reinterpret_cast<Elf64_Phdr*>(image.data() + header().e_phoff); }
  Elf64_Phdr& TextSegment() {
    for (std::uint32_t i = 0; i < header().e_phnum; ++i) {
      if (segments()[i].p_type == PT_LOAD && (segments()[i].p_flags & PF_X)) return segments()[i];
    }
    ADD_FAILURE() << "no text";
    return segments()[0];
  }
  // The image header, found through the segment that holds the entry address.
  abi::ImageHeader& Guest() {
    for (std::uint32_t i = 0; i < header().e_phnum; ++i) {
      const Elf64_Phdr& s = segments()[i];
      if (s.p_type == PT_LOAD && header().e_entry - s.p_vaddr < s.p_filesz) {
        return *reinterpret_cast<abi::ImageHeader*>(image.data() + s.p_offset + (header().e_entry - s.p_vaddr));
      }
    }
    ADD_FAILURE() << "no header";
    return *reinterpret_cast<abi::ImageHeader*>(image.data());
  }

  Bytes image, description;
};

TEST_F(ImageTest, LeadsFromFunctionsToCodeAndBack) {
  const auto mapped = Map();
  ASSERT_TRUE(mapped.ok()) << mapped.error().message;
  const Image& loaded = **mapped;
  const auto pc = reinterpret_cast<std::uintptr_t>(loaded.function(test::kSum)) + 1;
  EXPECT_TRUE(loaded.InText(pc));
  EXPECT_EQ(loaded.FunctionAt(pc), std::uint32_t{test::kSum});
  EXPECT_EQ(loaded.resume(test::kLoad), nullptr);
  EXPECT_NE(loaded.resume(test::kSum), nullptr);
  EXPECT_FALSE(loaded.InText(reinterpret_cast<std::uintptr_t>(&loaded)));
}

TEST_F(ImageTest, EveryTruncationIsRefused) {
  const Bytes whole = image;
  const std::uint64_t needed = TextSegment().p_offset + TextSegment().p_filesz;
  for (std::uint64_t bytes = 0; bytes < needed; bytes += 97) {
    image.assign(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(bytes));
    ExpectRefused(ErrorCode::kCorrupt, "truncated");
  }
}

TEST_F(ImageTest, AnotherMachineIsUnsupported) {
  header().e_machine = EM_S390;
  ExpectRefused(ErrorCode::kUnsupported, "machine");
}

TEST_F(ImageTest, AnotherAbiVersionIsUnsupported) {
  ++Guest().abi_version;
  ExpectRefused(ErrorCode::kUnsupported, "version");
}

TEST_F(ImageTest, CodeOfAnotherModuleIsRefused) {
  Guest().ir_hash[0] ^= 1;
  ExpectRefused(ErrorCode::kFailedPrecondition, "ir hash");
}

TEST_F(ImageTest, WritableCodeIsRefused) {
  TextSegment().p_flags |= PF_W;
  ExpectRefused(ErrorCode::kCorrupt, "writable and executable");
}

TEST_F(ImageTest, SegmentsMayNotOverlapOrLeaveTheFile) {
  const Bytes whole = image;
  TextSegment().p_offset = ~0ull - 10;
  ExpectRefused(ErrorCode::kCorrupt, "offset");
  image = whole;
  TextSegment().p_vaddr = ~0ull - 10;
  ExpectRefused(ErrorCode::kCorrupt, "address");
  image = whole;
  TextSegment().p_memsz = kImageSpanMax + 1;
  ExpectRefused(ErrorCode::kCorrupt, "size");
  image = whole;
  header().e_phnum = kImageSegmentsMax + 1;
  ExpectRefused(ErrorCode::kCorrupt, "number of segments");
}

TEST_F(ImageTest, CodeOffsetsMustLeadIntoText) {
  const Bytes whole = image;
  auto* functions = reinterpret_cast<std::int32_t*>(reinterpret_cast<std::uint8_t*>(&Guest()) + Guest().functions);
  functions[3] = 4;  // The header itself: not executable unless the linker put it there.
  if (TextSegment().p_vaddr > header().e_entry) ExpectRefused(ErrorCode::kCorrupt, "into data");
  functions[3] = 0x7fffffff;
  ExpectRefused(ErrorCode::kCorrupt, "past the end");
  image = whole;
  Guest().resumes = 0x7ffffff0;
  ExpectRefused(ErrorCode::kCorrupt, "table past the end");
  image = whole;
  Guest().function_count += 1;
  ExpectRefused(ErrorCode::kCorrupt, "count");
  image = whole;
  header().e_entry = 0;
  ExpectRefused(ErrorCode::kCorrupt, "entry address");
}

TEST_F(ImageTest, KnowsTheSourceOfItsCode) {
  const auto mapped = Map();
  ASSERT_TRUE(mapped.ok()) << mapped.error().message;
  const auto sum = reinterpret_cast<std::uintptr_t>((*mapped)->function(test::kSum));
  EXPECT_EQ((*mapped)->SourceAt(sum), "guest.c:11");
  EXPECT_EQ((*mapped)->SourceAt(sum + 1), "guest.c:11");
  EXPECT_EQ((*mapped)->SourceAt(sum + 3), "sum.h:12");
  EXPECT_EQ((*mapped)->SourceAt(sum + 4), "") << "line 0 is no line";
  EXPECT_EQ((*mapped)->SourceAt(0), "");
}

TEST_F(ImageTest, KnowsWhoseCodeLiesApart) {
  const std::uint8_t* header = reinterpret_cast<const std::uint8_t*>(&Guest());
  const auto sum_at = reinterpret_cast<const std::int32_t*>(header + Guest().functions)[test::kSum];
  const auto apart_at = Guest().lines + *reinterpret_cast<const std::int32_t*>(header + Guest().lines + sizeof(abi::LineTable));
  const auto mapped = Map();
  ASSERT_TRUE(mapped.ok()) << mapped.error().message;
  const auto sum = reinterpret_cast<std::uintptr_t>((*mapped)->function(test::kSum));
  EXPECT_EQ((*mapped)->FunctionAt(sum - sum_at + apart_at), 3u);
  EXPECT_EQ((*mapped)->FunctionAt(sum), std::uint32_t{test::kSum});
}

TEST_F(ImageTest, DamagedLineTablesAreRefused) {
  const Bytes whole = image;
  const auto lines = [&] { return reinterpret_cast<abi::LineTable*>(reinterpret_cast<std::uint8_t*>(&Guest()) + Guest().lines); };
  lines()->parts = 4;
  ExpectRefused(ErrorCode::kCorrupt, "more functions than there are");
  image = whole;
  lines()->strings = 0x7ffffff0;
  ExpectRefused(ErrorCode::kCorrupt, "names past the end");
  image = whole;
  lines()->string_bytes -= 1;
  ExpectRefused(ErrorCode::kCorrupt, "the last name does not end");
  image = whole;
  reinterpret_cast<std::uint32_t*>(lines())[5] = 0x10000000;
  ExpectRefused(ErrorCode::kCorrupt, "more rows than there are");
  image = whole;
  reinterpret_cast<std::uint32_t*>(lines())[4] = 24;
  ExpectRefused(ErrorCode::kCorrupt, "a function that is not there");
  image = whole;
  Guest().lines = 0x7ffffff0;
  ExpectRefused(ErrorCode::kCorrupt, "table past the end");
}

}  // namespace
}  // namespace godwit::runtime
