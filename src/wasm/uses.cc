#include "wasm/uses.h"

#include <wabt/expr-visitor.h>

namespace godwit::wasm {
namespace {

class Finder final : public wabt::ExprVisitor::DelegateNop {
 public:
  bool exceptions = false, tail_calls = false;

  wabt::Result OnReturnCallExpr(wabt::ReturnCallExpr*) override { return Found(tail_calls); }
  wabt::Result OnReturnCallIndirectExpr(wabt::ReturnCallIndirectExpr*) override { return Found(tail_calls); }
  wabt::Result BeginTryExpr(wabt::TryExpr*) override { return Found(exceptions); }
  wabt::Result OnThrowExpr(wabt::ThrowExpr*) override { return Found(exceptions); }

 private:
  static wabt::Result Found(bool& what) {
    what = true;
    return wabt::Result::Ok;
  }
};

}  // namespace

Uses FindUses(const wabt::Module& module) {
  Uses uses;
  uses.exceptions = !module.tags.empty();
  for (const wabt::Func* func : module.funcs) {
    Finder finder;
    wabt::ExprVisitor(&finder).VisitFunc(const_cast<wabt::Func*>(func));
    uses.exceptions |= finder.exceptions;
    uses.tail_calls.push_back(finder.tail_calls);
  }
  return uses;
}

}  // namespace godwit::wasm
