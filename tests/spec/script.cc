#include "script.h"

#include <wabt/cast.h>
#include <wabt/error-formatter.h>
#include <wabt/wast-lexer.h>
#include <wabt/wast-parser.h>

#include <algorithm>
#include <map>
#include <set>

namespace godwit::spec {
namespace {

wabt::Features AllFeatures() {
  wabt::Features features;
  features.EnableAll();
  return features;
}

// A token or a parenthesised form of the source.
struct Node {
  std::string_view text;
  std::vector<Node> children;  // Of a form.
  int line = 0;
  bool is_form() const { return text.starts_with('('); }
  std::string_view head() const { return children.empty() ? std::string_view() : children[0].text; }
};

class Reader {
 public:
  explicit Reader(std::string_view source) : source_(source) {}

  Result<std::vector<Node>> ReadAll() {
    std::vector<Node> nodes;
    for (SkipSpace(); at_ < source_.size(); SkipSpace()) {
      if (source_[at_] == ')') return Unbalanced();
      GODWIT_ASSIGN(Node node, Read());
      nodes.push_back(std::move(node));
    }
    return nodes;
  }

 private:
  Error Unbalanced() const { return InvalidArgument("line " + std::to_string(line_) + ": parentheses do not match"); }
  bool At(std::string_view text) const { return source_.substr(at_).starts_with(text); }
  void Step() { line_ += source_[at_++] == '\n'; }

  void SkipSpace() {
    while (at_ < source_.size()) {
      if (At(";;")) {
        while (at_ < source_.size() && source_[at_] != '\n' && source_[at_] != '\r') Step();
      } else if (At("(;")) {
        int depth = 0;
        do {
          if (At("(;")) { ++depth; at_ += 2; }
          else if (At(";)")) { --depth; at_ += 2; }
          else Step();
        } while (depth != 0 && at_ < source_.size());
      } else if (std::string_view(" \t\r\n").find(source_[at_]) != std::string_view::npos) {
        Step();
      } else {
        return;
      }
    }
  }

  Result<Node> Read() {
    Node node;
    node.line = line_;
    const std::size_t begin = at_;
    if (source_[at_] == '(') {
      ++at_;
      for (SkipSpace(); at_ < source_.size() && source_[at_] != ')'; SkipSpace()) {
        GODWIT_ASSIGN(Node child, Read());
        node.children.push_back(std::move(child));
      }
      if (at_ == source_.size()) return Unbalanced();
      ++at_;
    } else if (source_[at_] == '"') {
      for (++at_; at_ < source_.size() && source_[at_] != '"'; Step()) at_ += source_[at_] == '\\';
      if (at_ >= source_.size()) return Unbalanced();
      ++at_;
    } else {
      while (at_ < source_.size() && std::string_view(" \t\r\n()\";").find(source_[at_]) == std::string_view::npos) ++at_;
      if (at_ == begin) return Unbalanced();
    }
    node.text = source_.substr(begin, at_ - begin);
    return node;
  }

  std::string_view source_;
  std::size_t at_ = 0;
  int line_ = 1;
};

struct Edit {
  std::size_t at, removed;
  std::string inserted;
};

// Abbreviations of the text format that libwabt's parser does not know, spelled out:
// an instruction on a table that is not named is on table 0; (if T c d (then ...)) is c d (if T (then ...)).
void SpellOut(const Node& node, std::string_view whole, std::vector<Edit>& edits) {
  static const std::set<std::string_view> kOnTables{"table.get", "table.set", "table.size", "table.grow", "table.fill"};
  static const std::set<std::string_view> kBlockType{"type", "param", "result"};
  const auto offset = [&](const Node& n) { return static_cast<std::size_t>(n.text.data() - whole.data()); };
  const auto& children = node.children;
  if (node.head() == "if") {
    std::size_t first = 1;
    while (first < children.size() && (children[first].text[0] == '$' || kBlockType.contains(children[first].head()))) ++first;
    std::size_t then = first;
    while (then < children.size() && children[then].head() != "then") ++then;
    if (then < children.size() && then - first > 1) {
      const std::size_t begin = offset(node), end = offset(children[first]);
      edits.push_back({begin, end - begin, ""});
      edits.push_back({offset(children[then]), 0, std::string(whole.substr(begin, end - begin))});
    }
  }
  for (std::size_t i = 0; i < children.size(); ++i) {
    SpellOut(children[i], whole, edits);
    if (!kOnTables.contains(children[i].text)) continue;
    const char next = i + 1 < children.size() ? children[i + 1].text[0] : '(';
    if (next != '$' && (next < '0' || next > '9')) edits.push_back({offset(children[i]) + children[i].text.size(), 0, " 0"});
  }
}

std::string ModuleText(const Node& module) {
  std::vector<Edit> edits;
  SpellOut(module, module.text, edits);
  std::stable_sort(edits.begin(), edits.end(), [](const Edit& x, const Edit& y) { return x.at < y.at; });
  std::string text;
  std::size_t from = 0;
  for (const Edit& edit : edits) {
    text += std::string(module.text.substr(from, edit.at - from)) + edit.inserted;
    from = edit.at + edit.removed;
  }
  return text + std::string(module.text.substr(from));
}

// The command that libwabt makes of `text`, or why it makes none.
Result<std::unique_ptr<wabt::Script>> ParseForm(const std::string& text) {
  wabt::Errors errors;
  auto lexer = wabt::WastLexer::CreateBufferLexer("form", text.data(), text.size(), &errors);
  std::unique_ptr<wabt::Script> script;
  wabt::WastParseOptions options(AllFeatures());
  if (wabt::Failed(wabt::ParseWastScript(lexer.get(), &script, &errors, &options)) || script->commands.size() != 1) {
    std::string message = errors.empty() ? "not one command" : errors[0].message;
    return InvalidArgument("libwabt's parser refuses it: " + message.substr(0, message.find('\n')));
  }
  return script;
}

Result<ModuleSource> ParseModule(const Node& module) {
  ModuleSource result;
  std::size_t next = 1;
  if (module.children.size() > next && module.children[next].text.starts_with('$')) {
    result.name = module.children[next++].text;
  }
  const std::string_view form = module.children.size() > next ? module.children[next].text : "";
  if (form != "binary" && form != "quote") {
    const std::string text = ModuleText(module);
    result.source.assign(text.begin(), text.end());
    return result;
  }
  // In an assertion libwabt keeps the bytes without looking at them.
  GODWIT_ASSIGN(auto script, ParseForm("(assert_malformed " + std::string(module.text) + " \"\")"));
  const auto* command = wabt::cast<wabt::AssertMalformedCommand>(script->commands[0].get());
  if (const auto* binary = wabt::dyn_cast<wabt::BinaryScriptModule>(command->module.get())) {
    result.source = binary->data;
    // Too short to show that it is a binary.
    if (result.source.size() < 4) result.source.insert(result.source.begin(), {0, 'a', 's', 'm'});
  } else {
    result.source = wabt::cast<wabt::QuotedScriptModule>(command->module.get())->data;
  }
  return result;
}

Action Convert(wabt::Action& action) {
  Action result;
  if (action.module_var.is_name()) result.module = action.module_var.name();
  result.field = action.name;
  result.get = action.type() == wabt::ActionType::Get;
  if (!result.get) result.arguments = wabt::cast<wabt::InvokeAction>(&action)->args;
  return result;
}

Status ParseActionCommand(const Node& form, Command& command) {
  GODWIT_ASSIGN(auto script, ParseForm(std::string(form.text)));
  wabt::Command& parsed = *script->commands[0];
  switch (command.kind) {
    case Command::Kind::kAction:
      command.action = Convert(*wabt::cast<wabt::ActionCommand>(&parsed)->action);
      break;
    case Command::Kind::kAssertReturn: {
      auto* assertion = wabt::cast<wabt::AssertReturnCommand>(&parsed);
      command.action = Convert(*assertion->action);
      command.expected = assertion->expected->expected;
      command.either = assertion->expected->type() == wabt::ExpectationType::Either;
      break;
    }
    case Command::Kind::kAssertException:
      command.action = Convert(*wabt::cast<wabt::AssertExceptionCommand>(&parsed)->action);
      break;
    case Command::Kind::kAssertTrap: {
      auto* assertion = wabt::cast<wabt::AssertTrapCommand>(&parsed);
      command.action = Convert(*assertion->action);
      command.text = assertion->text;
      break;
    }
    default: {
      auto* assertion = wabt::cast<wabt::AssertExhaustionCommand>(&parsed);
      command.action = Convert(*assertion->action);
      command.text = assertion->text;
    }
  }
  return {};
}

std::string_view Unquoted(std::string_view text) {
  return text.size() >= 2 && text[0] == '"' ? text.substr(1, text.size() - 2) : text;
}

Status Parse(const Node& form, Command& command) {
  using Kind = Command::Kind;
  static const std::map<std::string_view, Kind> kKinds{
      {"module", Kind::kModule}, {"register", Kind::kRegister}, {"invoke", Kind::kAction}, {"get", Kind::kAction},
      {"assert_return", Kind::kAssertReturn}, {"assert_trap", Kind::kAssertTrap},
      {"assert_exhaustion", Kind::kAssertExhaustion}, {"assert_exception", Kind::kAssertException},
      {"assert_invalid", Kind::kAssertInvalid}, {"assert_malformed", Kind::kAssertMalformed},
      {"assert_unlinkable", Kind::kAssertUnlinkable}};
  const auto found = kKinds.find(form.head());
  if (found == kKinds.end()) return InvalidArgument("unknown command " + std::string(form.head()));
  Kind kind = found->second;
  command.assertion = kind != Kind::kModule && kind != Kind::kRegister && kind != Kind::kAction;
  const bool of_module = form.children.size() > 1 && form.children[1].head() == "module";
  if (kind == Kind::kModule) {
    GODWIT_ASSIGN(command.module, ParseModule(form));
  } else if (kind == Kind::kRegister) {
    if (form.children.size() < 2) return InvalidArgument("register without a name");
    command.text = Unquoted(form.children[1].text);
    if (form.children.size() > 2) command.module.name = form.children[2].text;
  } else if (of_module) {
    if (kind == Kind::kAssertTrap) kind = Kind::kAssertUninstantiable;
    GODWIT_ASSIGN(command.module, ParseModule(form.children[1]));
    if (form.children.size() > 2) command.text = Unquoted(form.children[2].text);
  } else {
    command.kind = kind;
    GODWIT_TRY(ParseActionCommand(form, command));
  }
  command.kind = kind;
  return {};
}

}  // namespace

Result<std::vector<Command>> ParseScript(std::string_view source) {
  GODWIT_ASSIGN(const std::vector<Node> nodes, Reader(source).ReadAll());
  std::vector<Command> commands;
  static const std::set<std::string_view> kFields{"func", "memory", "table", "global", "type", "import", "export", "data", "elem", "start"};
  if (!nodes.empty() && kFields.contains(nodes[0].head())) {  // The whole script is one module's fields.
    Command& command = commands.emplace_back();
    command.kind = Command::Kind::kModule;
    command.assertion = false;
    command.line = nodes[0].line;
    command.module.source.assign(source.begin(), source.end());
    return commands;
  }
  for (const Node& node : nodes) {
    Command& command = commands.emplace_back();
    command.line = node.line;
    if (Status parsed = Parse(node, command); !parsed.ok()) {
      command.kind = Command::Kind::kUnparsable;
      command.text = parsed.error().message;
    }
  }
  return commands;
}

}  // namespace godwit::spec
