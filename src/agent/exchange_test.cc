#include "agent/exchange.h"

#include <gtest/gtest.h>

#include "agent/cgi.h"

namespace godwit::agent {
namespace {

// Keeps what a gateway would have got.
class RecordingSink final : public RequestSink {
 public:
  void BodyConsumed(const RequestId&, std::uint64_t offset) override { consumed = offset; }
  void Head(const RequestId&, std::uint16_t status_code, const std::vector<Header>& list, std::int64_t bytes) override {
    ++heads;
    status = status_code;
    headers = list;
    body_bytes = bytes;
  }
  void Chunk(const RequestId&, std::uint64_t offset, ByteView bytes, bool is_last) override {
    ASSERT_EQ(offset, begin + body.size());
    body += AsText(bytes);
    last = last || is_last;
  }
  void Failed(const RequestId&, const Failure& why) override { failure = why; }
  void Moved(const RequestId&, const Location& to, std::uint64_t, bool) override { moved_to = to.device.value; }

  std::uint64_t begin = 0, consumed = 0;
  int heads = 0;
  std::uint16_t status = 0;
  std::int64_t body_bytes = -2;
  std::vector<Header> headers;
  std::string body, moved_to;
  bool last = false;
  std::optional<Failure> failure;
};

std::shared_ptr<Exchange> Running(std::shared_ptr<RequestSink> sink) {
  auto exchange = std::make_shared<Exchange>();
  exchange->phase = Exchange::Phase::kRunning;
  exchange->sink = std::move(sink);
  return exchange;
}

TEST(ExchangeTest, GivesASmallAnswerWithItsLength) {
  const auto sink = std::make_shared<RecordingSink>();
  const auto exchange = Running(sink);
  EXPECT_EQ(exchange->Write("hello"), 5u);
  EXPECT_EQ(sink->heads, 0);  // Gathered.
  exchange->Finish();
  EXPECT_EQ(sink->body, "hello");
  EXPECT_EQ(sink->body_bytes, 5);
  EXPECT_TRUE(sink->last);
  EXPECT_EQ(exchange->phase, Exchange::Phase::kAnswered);
  exchange->Acknowledge(5);
  EXPECT_EQ(exchange->phase, Exchange::Phase::kEnded);
}

TEST(ExchangeTest, TakesNoMoreThanTheWindowAndGoesOnAfterAnAcknowledgement) {
  const auto sink = std::make_shared<RecordingSink>();
  const auto exchange = Running(sink);
  const std::string much(kWindowBytes + 1, 'x');
  EXPECT_EQ(exchange->Write(much), kWindowBytes);
  EXPECT_EQ(exchange->Write("y"), 0u);
  exchange->Flush();
  exchange->Acknowledge(10);
  EXPECT_TRUE(exchange->wake.load());
  EXPECT_EQ(exchange->Write(much), 10u);
}

TEST(ExchangeTest, IgnoresAcknowledgementsOfBytesThatWereNeverSent) {
  const auto sink = std::make_shared<RecordingSink>();
  const auto exchange = Running(sink);
  exchange->Write("abc");
  exchange->Acknowledge(2);
  EXPECT_EQ(exchange->out, "abc");
}

TEST(ExchangeTest, GoesOnFromWhereTheGatewaySaysAfterAnAttach) {
  const auto exchange = Running(nullptr);
  exchange->Write("0123456789");
  exchange->Finish();
  const auto sink = std::make_shared<RecordingSink>();
  sink->begin = 4;
  exchange->Attach(sink, 4, true);
  EXPECT_EQ(sink->heads, 0);
  EXPECT_EQ(sink->body, "456789");
  EXPECT_TRUE(sink->last);
}

TEST(ExchangeTest, SkipsBodyBytesItHasAndRefusesAGap) {
  const auto exchange = Running(nullptr);
  EXPECT_TRUE(exchange->TakeBody(0, AsBytes("abc"), false));
  EXPECT_TRUE(exchange->TakeBody(1, AsBytes("bcd"), true));
  EXPECT_FALSE(exchange->TakeBody(9, AsBytes("z"), false));
  std::uint8_t read[16];
  EXPECT_EQ(exchange->ReadBody(read, sizeof read), 4u);
  EXPECT_EQ(AsText({read, 4}), "abcd");
  EXPECT_TRUE(exchange->body_ended);
}

TEST(ExchangeTest, RefusesABodyBeyondTheWindow) {
  const auto exchange = Running(nullptr);
  const std::string much(2 * kWindowBytes, 'x');
  EXPECT_TRUE(exchange->TakeBody(0, AsBytes(much), false));
  EXPECT_FALSE(exchange->TakeBody(much.size(), AsBytes("y"), false));
}

TEST(ExchangeTest, ACopyHasWhatTravels) {
  const auto exchange = Running(nullptr);
  exchange->TakeBody(0, AsBytes("abcdef"), false);
  std::uint8_t read[2];
  exchange->ReadBody(read, 2);
  exchange->Write("out");
  exchange->captured_received = 6;
  const auto copy = exchange->Copy();
  EXPECT_EQ(copy->body, "cdef");
  EXPECT_EQ(copy->out, "out");
  EXPECT_EQ(copy->out_sent, 0u);
  EXPECT_EQ(copy->captured_received, 6u);
}

TEST(CgiTest, TakesAHeaderBlock) {
  CgiHead head;
  const std::string output = "Status: 404 Not Found\r\nContent-Type: text/html\r\nX-A: b\r\n\r\nbody";
  ASSERT_EQ(ParseCgiHead(output, false, &head), CgiState::kDone);
  EXPECT_EQ(head.status, 404);
  ASSERT_EQ(head.headers.size(), 2u);
  EXPECT_EQ(output.substr(head.body_begin), "body");
}

TEST(CgiTest, TakesOutputWithoutAHeaderBlockAsPlainText) {
  for (const char* output : {"hello world\nmore\n", "note: this is text\n\nnot a header block\n", "1 2 3\n"}) {
    CgiHead head;
    ASSERT_EQ(ParseCgiHead(output, true, &head), CgiState::kDone) << output;
    EXPECT_EQ(head.status, 200);
    EXPECT_EQ(head.body_begin, 0u) << output;
  }
}

TEST(CgiTest, WaitsForTheEndOfAHeaderBlockAndKnowsEarlyThatThereIsNone) {
  CgiHead head;
  EXPECT_EQ(ParseCgiHead("Content-Ty", false, &head), CgiState::kMore);
  EXPECT_EQ(ParseCgiHead("Content-Type: text/plain\n", false, &head), CgiState::kMore);
  EXPECT_EQ(ParseCgiHead("hello world", false, &head), CgiState::kDone);
}

TEST(CgiTest, ALocationAloneIsARedirection) {
  CgiHead head;
  ASSERT_EQ(ParseCgiHead("Location: /there\n\n", false, &head), CgiState::kDone);
  EXPECT_EQ(head.status, 302);
}

TEST(CgiTest, GivesTheVariablesOfRfc3875WithoutProxyAndAuthorization) {
  NewRequest request;
  request.method = "POST";
  request.target = "/orders/7/x?a=b";
  request.route = "/orders/{key}";
  request.body_follows = true;
  request.body_bytes = 12;
  request.headers = {{"Content-Type", "text/plain"}, {"X-Two", "1"}, {"x-two", "2"}, {"Proxy", "evil"}, {"Authorization", "secret"}};
  std::map<std::string, std::string> variables;
  for (auto& [name, value] : CgiEnvironment(request, "orders")) variables[name] = value;
  EXPECT_EQ(variables["REQUEST_METHOD"], "POST");
  EXPECT_EQ(variables["SCRIPT_NAME"], "/orders");
  EXPECT_EQ(variables["PATH_INFO"], "/7/x");
  EXPECT_EQ(variables["QUERY_STRING"], "a=b");
  EXPECT_EQ(variables["CONTENT_LENGTH"], "12");
  EXPECT_EQ(variables["CONTENT_TYPE"], "text/plain");
  EXPECT_EQ(variables["HTTP_X_TWO"], "1, 2");
  EXPECT_EQ(variables.count("HTTP_PROXY") + variables.count("HTTP_AUTHORIZATION"), 0u);
}

}  // namespace
}  // namespace godwit::agent
