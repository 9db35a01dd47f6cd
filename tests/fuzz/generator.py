"""Random valid WebAssembly modules, as text, from a seed.

Every function ends: loops count, or use up fuel, which calls use up too. Results are integers: floating-point values are made
canonical wherever the bits of a NaN could be seen, since the specification leaves those open. Calls go to functions
behind the caller, or back within a depth.
"""
import math
import random
import struct

INTEGERS = [0, 1, 2, 3, 7, 8, 15, 31, 32, 63, 64, 127, 128, 255, 256, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff,
            0x5555555555555555, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, -1.5, 2147483648.0, -2147483649.0, 4294967296.0, 9.223372036854775807e18, 1e30, -1e-30, 5e-324, math.inf, -math.inf,
          math.nan, 3.25, 1e10]
SCALARS = ["i32", "i64", "f32", "f64"]
TYPES = SCALARS + ["v128"]
MEMORY = 65536       # Bytes at first; it may grow. Bulk operations cross the chunks of 16 KiB that code does them in.
SLOTS = 8            # Of the table; the first half holds functions of one type.
GROWN = 12           # Slots that the other tables grow to.
FUEL = 1000
DEPTH = 8
ITERATIONS = 150     # Of nested counted loops together.

UNARY = {
    "i32": ["i32.clz", "i32.ctz", "i32.popcnt", "i32.eqz", "i32.extend8_s", "i32.extend16_s"],
    "i64": ["i64.clz", "i64.ctz", "i64.popcnt", "i64.extend8_s", "i64.extend16_s", "i64.extend32_s"],
    "f32": ["f32.abs", "f32.neg", "f32.ceil", "f32.floor", "f32.trunc", "f32.nearest", "f32.sqrt"],
    "f64": ["f64.abs", "f64.neg", "f64.ceil", "f64.floor", "f64.trunc", "f64.nearest", "f64.sqrt"],
    "v128": ["v128.not"] + [f"{s}.{o}" for s in ("i8x16", "i16x8", "i32x4", "i64x2") for o in ("abs", "neg")] + ["i8x16.popcnt"] +
            [f"{a}.{o}_{h}_{b}_{x}" for a, b in (("i16x8", "i8x16"), ("i32x4", "i16x8"), ("i64x2", "i32x4")) for o in ("extend",)
             for h in ("low", "high") for x in "su"] +
            [f"i16x8.extadd_pairwise_i8x16_{x}" for x in "su"] + [f"i32x4.extadd_pairwise_i16x8_{x}" for x in "su"] +
            [f"i32x4.trunc_sat_f32x4_{x}" for x in "su"] + [f"i32x4.trunc_sat_f64x2_{x}_zero" for x in "su"],
}
BINARY = {
    "i32": ["add", "sub", "mul", "and", "or", "xor", "shl", "shr_s", "shr_u", "rotl", "rotr"],
    "f32": ["add", "sub", "mul", "div", "min", "max"],
    "v128": ["v128.and", "v128.or", "v128.xor", "v128.andnot", "i8x16.swizzle", "i32x4.dot_i16x8_s", "i16x8.q15mulr_sat_s"] +
            [f"{s}.{o}" for s in ("i8x16", "i16x8", "i32x4", "i64x2") for o in ("add", "sub", "eq", "ne", "lt_s", "gt_s", "le_s", "ge_s")] +
            [f"{s}.{o}" for s in ("i16x8", "i32x4", "i64x2") for o in ("mul",)] +
            [f"{s}.{o}_{x}" for s in ("i8x16", "i16x8", "i32x4") for o in ("min", "max") for x in "su"] +
            [f"{s}.{o}_u" for s in ("i8x16", "i16x8", "i32x4") for o in ("lt", "gt", "le", "ge")] +
            [f"{s}.{o}_sat_{x}" for s in ("i8x16", "i16x8") for o in ("add", "sub") for x in "su"] +
            [f"{s}.avgr_u" for s in ("i8x16", "i16x8")] +
            ["i8x16.narrow_i16x8_s", "i8x16.narrow_i16x8_u", "i16x8.narrow_i32x4_s", "i16x8.narrow_i32x4_u"] +
            [f"{a}.extmul_{h}_{b}_{x}" for a, b in (("i16x8", "i8x16"), ("i32x4", "i16x8"), ("i64x2", "i32x4")) for h in ("low", "high") for x in "su"] +
            [f"{s}.{o}" for s in ("f32x4", "f64x2") for o in ("eq", "ne", "lt", "gt", "le", "ge")],
}
FLOAT_LANES = [f"{s}.{o}" for s in ("f32x4", "f64x2") for o in ("add", "sub", "mul", "div", "min", "max", "pmin", "pmax")]
FLOAT_LANES_UNARY = [f"{s}.{o}" for s in ("f32x4", "f64x2") for o in ("abs", "neg", "sqrt", "ceil", "floor", "trunc", "nearest")] + \
    ["f32x4.convert_i32x4_s", "f32x4.convert_i32x4_u", "f64x2.convert_low_i32x4_s", "f64x2.convert_low_i32x4_u", "f32x4.demote_f64x2_zero",
     "f64x2.promote_low_f32x4"]
COMPARE = {"i": ["eq", "ne", "lt_s", "lt_u", "gt_s", "gt_u", "le_s", "le_u", "ge_s", "ge_u"], "f": ["eq", "ne", "lt", "gt", "le", "ge"]}
LANES = {"i8x16": 16, "i16x8": 8, "i32x4": 4, "i64x2": 2, "f32x4": 4, "f64x2": 2}
LANE_TYPE = {"i8x16": "i32", "i16x8": "i32", "i32x4": "i32", "i64x2": "i64", "f32x4": "f32", "f64x2": "f64"}

PRELUDE = f"""
  (memory $m (export "memory") 1 3)
  (global $fuel (mut i32) (i32.const 0))
  (global $depth (mut i32) (i32.const 0))
  (global $least (mut i64) (i64.const 0x8000000000000000))
  (global $ones (mut i64) (i64.const -1))
  (func $cf32 (param f32) (result f32) (select (local.get 0) (f32.const nan) (f32.eq (local.get 0) (local.get 0))))
  (func $cf64 (param f64) (result f64) (select (local.get 0) (f64.const nan) (f64.eq (local.get 0) (local.get 0))))
  (func $cf32x4 (param v128) (result v128)
    (v128.bitselect (local.get 0) (v128.const f32x4 nan nan nan nan) (f32x4.eq (local.get 0) (local.get 0))))
  (func $cf64x2 (param v128) (result v128) (v128.bitselect (local.get 0) (v128.const f64x2 nan nan) (f64x2.eq (local.get 0) (local.get 0))))
  (func $mix (param i64 i64) (result i64)
    (i64.mul (i64.xor (i64.rotl (local.get 0) (i64.const 29)) (local.get 1)) (i64.const 0x9e3779b97f4a7c15)))
"""


class Function:
    def __init__(self, index, params, results):
        self.name, self.index, self.params, self.results = f"$f{index}", index, params, results


class Generator:
    """One module. `text(extra)` is its text; `exports` are the names to call in order, each without parameters."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        r = self.random
        # In some only: the reference interpreter does not get over all of them.
        self.exceptions = 1 if r.random() < 0.25 else 0
        self.globals = [(f"$g{i}", r.choice(TYPES)) for i in range(r.randint(2, 5))]
        self.data = r.randbytes(2048)  # At the begin of the memory, where most accesses are.
        shared = self.signature()
        self.functions = []
        for i in range(r.randint(4, 8)):
            params, results = shared if i % 2 == 0 else self.signature()
            self.functions.append(Function(i, params, results))
        self.shared = shared
        self.same = [f for f in self.functions if (f.params, f.results) == shared]
        self.tags = [[r.choice(TYPES) for _ in range(r.randint(0, 3))] for _ in range(2)]
        self.bodies = [self.define(f) for f in self.functions]
        self.exports, self.wrappers = [], []
        for i in range(r.randint(5, 9)):
            self.wrap(f"c{i}", r.choice(self.functions))

    # --- Small choices ---
    def signature(self):
        r = self.random
        return ([r.choice(TYPES) for _ in range(r.randint(0, 4))], [r.choice(TYPES) for _ in range(r.choice([0, 1, 1, 1, 2, 3]))])

    def chance(self, share):
        return self.random.random() < share

    def constant(self, t):
        r = self.random
        if t == "v128":
            return "(v128.const i32x4 " + " ".join(str(self.integer(32)) for _ in range(4)) + ")"
        if t[0] == "i":
            return f"({t}.const {self.integer(int(t[1:]))})"
        value = r.choice(FLOATS) if self.chance(0.6) else r.uniform(-1000, 1000)
        if t == "f32" and math.isfinite(value):
            try:
                value = struct.unpack("f", struct.pack("f", value))[0]
            except OverflowError:
                value = math.inf
        return f"({t}.const {'nan' if math.isnan(value) else ('-' if value < 0 else '') + 'inf' if math.isinf(value) else value.hex()})"

    def integer(self, bits):
        r = self.random
        value = r.choice(INTEGERS) if self.chance(0.5) else r.randint(-100, 100) if self.chance(0.5) else r.getrandbits(bits)
        return value & ((1 << bits) - 1)

    # --- Functions ---
    def define(self, function):
        r = self.random
        self.function = function
        self.locals = [(f"$p{i}", t) for i, t in enumerate(function.params)]
        own = [(f"$l{i}", r.choice(TYPES)) for i in range(r.randint(1, 5))]
        self.locals += own
        self.counters = []       # Of counted loops: read by anybody, written by their loop only.
        self.loops = 1           # Iterations of the loops around, multiplied.
        self.labels = 0
        head = [f"(if (i32.lt_s (global.get $fuel) (i32.const 0)) (then (return {' '.join(self.constant(t) for t in function.results)})))",
                "(global.set $fuel (i32.sub (global.get $fuel) (i32.const 10)))"]
        # One address that loads and stores come back to.
        head.append(f"(local.set $a (i32.and {self.leaf('i32')} (i32.const {r.choice([0x38, 0x3f8, 0x7f0])})))")
        body = [self.statement(4) for _ in range(r.randint(2, 7))]
        tail = [self.expression(t, 3) for t in function.results]
        if self.chance(0.2):
            tail = [self.tail_call()]
        declared = "".join(f" (local {n} {t})" for n, t in own) + "".join(f" (local {n} i32)" for n in [*self.counters, "$a"]) + \
            " (local $funcref funcref) (local $externref externref)"
        params = "".join(f" (param {n} {t})" for n, t in self.locals[:len(function.params)])
        results = "".join(f" (result {t})" for t in function.results)
        return f"  (func {function.name}{params}{results}{declared}\n    " + "\n    ".join(head + body + tail) + ")\n"

    def tail_call(self):
        """To any function that gives the same, this one too: fuel ends them all."""
        if self.function.results == self.shared[1] and self.chance(0.4):
            return f"(return_call_indirect $t (type $shared) {self.arguments(self.shared[0], 1)} {self.slot()})"
        callee = self.random.choice([f for f in self.functions if f.results == self.function.results])
        return f"(return_call {callee.name} {self.arguments(callee.params, 2)})"

    def slot(self):
        """Of a function of the shared type; seldom any, or none."""
        return f"(i32.and {self.expression('i32', 1)} (i32.const {2 * SLOTS - 1 if self.chance(0.15) else SLOTS // 2 - 1}))"

    def arguments(self, types, depth):
        return " ".join(self.expression(t, depth) for t in types)

    def results_of(self, call, types):
        """What to do with a call's results: into locals of their types, or nothing."""
        sets = []
        for t in reversed(types):
            fitting = [n for n, u in self.locals if u == t]
            sets.append(f"(local.set {self.random.choice(fitting)})" if fitting and self.chance(0.8) else "(drop)")
        return call + " " + " ".join(sets)

    def guarded(self, call, types):
        """A call that may lead back here."""
        return ("(if (i32.gt_s (global.get $depth) (i32.const 0)) (then (global.set $depth (i32.sub (global.get $depth) (i32.const 1))) " +
                self.results_of(call, types) + " (global.set $depth (i32.add (global.get $depth) (i32.const 1)))))")

    def label(self):
        self.labels += 1
        return f"$b{self.labels}"

    # --- Statements: leave nothing on the stack ---
    def statements(self, depth, most=3):
        return " ".join(self.statement(depth) for _ in range(self.random.randint(1, most)))

    def statement(self, depth):
        r = self.random
        kinds = [(self.set_local, 6), (self.store, 4), (self.set_global, 2), (self.call, 2), (self.bulk, 1), (self.set_table, 0.5), (self.leave, 0.3),
                 (self.set_reference, 0.5)]
        if depth > 0:
            kinds += [(self.counted_loop, 4), (self.fuelled_loop, 2), (self.branch, 3), (self.block, 2), (self.switch, 1), (self.attempt, self.exceptions),
                      (self.indirect, 1.5), (self.with_parameters, 1)]
        kind = r.choices([k for k, _ in kinds], [w for _, w in kinds])[0]
        return kind(depth - 1)

    def set_local(self, depth):
        name, t = self.random.choice(self.locals)
        return f"(local.set {name} {self.expression(t, max(depth, 1))})"

    def set_global(self, depth):
        name, t = self.random.choice(self.globals)
        return f"(global.set {name} {self.expression(t, max(depth, 1))})"

    def store(self, depth):
        t = self.random.choice(TYPES)
        op = {"i32": ["i32.store", "i32.store8", "i32.store16"], "i64": ["i64.store", "i64.store8", "i64.store16", "i64.store32"], "f32": ["f32.store"],
              "f64": ["f64.store"], "v128": ["v128.store"]}[t]
        address, offset = self.address(depth)
        if t == "v128" and self.chance(0.3):
            shape = self.random.choice(["8", "16", "32", "64"])
            return f"(v128.store{shape}_lane{offset} {self.random.randrange(128 // int(shape))} {address} {self.expression(t, max(depth, 1))})"
        return f"({self.random.choice(op)}{offset} {address} {self.canonical(t, self.expression(t, max(depth, 1)))})"

    def address(self, depth):
        r = self.random
        if self.chance(0.003):
            return self.expression("i32", 1), ""
        if self.chance(0.06):
            return f"(i32.const {r.choice([0, 0, 4, 64, 1000])})", ""
        if self.chance(0.15):
            return "(local.get $a)", ""
        if self.chance(0.005):
            return f"(i32.const {MEMORY - r.randint(0, 17)})", ""
        inner = self.expression("i32", min(depth, 2))
        mask = r.choice([0xff, 0xff8, 0x7ffc, 0x3f0, 0xffc0])
        offset = r.choice(["", "", f" offset={r.randint(0, 15)}"])
        return f"(i32.and {inner} (i32.const {mask}))", offset

    def bulk(self, depth):
        small = lambda: f"(i32.and {self.expression('i32', 1)} (i32.const {self.random.choice([7, 63, 0x1ff, 0x7fff])}))"
        size = lambda: f"(i32.and {self.expression('i32', 1)} (i32.const {self.random.choice([3, 31, 255, 0x5fff])}))"
        kind = self.random.choice(["fill", "copy", "init"])
        if self.chance(0.02):
            return "(data.drop $d)"
        if kind == "init":
            return f"(memory.init $d {small()} (i32.and {self.expression('i32', 1)} (i32.const 7)) (i32.and {self.expression('i32', 1)} (i32.const 7)))"
        second = self.expression("i32", 1) if kind == "fill" else small()
        return f"(memory.{kind} {small()} {second} {size()})"

    def set_table(self, depth):
        half = f"(i32.const {SLOTS // 2 - 1})"
        if self.chance(0.3):
            return f"(table.set $t (i32.and {self.expression('i32', 1)} {half}) (ref.func {self.random.choice(self.same).name}))"
        if self.chance(0.3):
            return f"(table.copy $t $t (i32.const 0) (i32.const 1) (i32.and {self.expression('i32', 1)} (i32.const 3)))"
        if self.chance(0.2):
            return f"(table.fill $t (i32.const {self.random.choice([0, 1])}) (ref.func {self.random.choice(self.same).name}) (i32.and {self.expression('i32', 1)} (i32.const 3)))"
        if self.chance(0.2):
            return f"(table.init $t $e (i32.and {self.expression('i32', 1)} (i32.const 1)) (i32.const {self.random.choice([0, 1])}) (i32.and {self.expression('i32', 1)} (i32.const 3)))"
        if self.chance(0.05):
            return "(elem.drop $e)"
        return f"(table.set $t (i32.and {self.expression('i32', 1)} {half}) (table.get $t (i32.and {self.expression('i32', 1)} {half})))"

    def call(self, depth):
        behind = self.functions[self.function.index + 1:]
        if not behind or self.chance(0.15):
            return self.guarded(f"(call {self.function.name} {self.arguments(self.function.params, 1)})", self.function.results)
        callee = self.random.choice(behind)
        return self.results_of(f"(call {callee.name} {self.arguments(callee.params, min(max(depth, 1), 2))})", callee.results)

    def set_reference(self, depth):
        """A reference into a local variable, or into a table that grows; what it is shows by `ref.is_null` and calls."""
        kind = self.random.choice(["funcref", "externref"])
        table, value = f"${kind}s", self.reference(kind)
        slot = f"(i32.rem_u {self.expression('i32', 1)} (table.size {table}))"
        if self.chance(0.4):
            return f"(local.set ${kind} {value})"
        if self.chance(0.4):
            return f"(drop (table.grow {table} {value} (i32.and {self.expression('i32', 1)} (i32.const {self.random.choice([1, 3, -1])}))))"
        if self.chance(0.4):
            return f"(table.fill {table} {slot} {value} (i32.and {self.expression('i32', 1)} (i32.const 1)))"
        return f"(table.set {table} {slot} {value})"

    def reference(self, kind):
        if self.chance(0.3):
            return f"(local.get ${kind})"
        if self.chance(0.3):
            return f"(table.get ${kind}s (i32.rem_u {self.expression('i32', 1)} (table.size ${kind}s)))"
        if self.chance(0.2):
            return f"(select (result {kind}) (local.get ${kind}) {self.reference(kind)} {self.condition(1)})"
        return f"(ref.func {self.random.choice(self.same).name})" if kind == "funcref" and self.chance(0.85) else f"(ref.null {kind[:-3]})"

    def indirect(self, depth):
        table, index = "$t", self.slot()
        if self.chance(0.2):
            table, index = "$funcrefs", f"(i32.rem_u {self.expression('i32', 1)} (table.size $funcrefs))"
        return self.guarded(f"(call_indirect {table} (type $shared) {self.arguments(self.shared[0], 1)} {index})", self.shared[1])

    def leave(self, depth):
        if self.chance(0.15):
            return f"(if {self.condition(2)} (then unreachable))"
        if self.exceptions and self.chance(0.4):
            tag = self.random.randrange(len(self.tags))
            return f"(if {self.condition(2)} (then (throw $e{tag} {self.arguments(self.tags[tag], 1)})))"
        if self.chance(0.3):
            return f"(if {self.condition(2)} (then {self.tail_call()}))"
        return f"(if {self.condition(2)} (then (return {self.arguments(self.function.results, 1)})))"

    def counted_loop(self, depth):
        most = min(60, ITERATIONS // self.loops)
        if most < 2:
            return self.set_local(depth)
        times = self.random.randint(2, most)
        name, label = f"$i{len(self.counters)}", self.label()
        self.counters.append(name)
        self.loops *= times
        body = self.statements(depth)
        self.loops //= times
        step = self.random.choice([1, 1, 1, 2, 3])
        if self.chance(0.5):
            return (f"(local.set {name} (i32.const 0)) (loop {label} {body} (local.set {name} (i32.add (local.get {name}) (i32.const {step}))) "
                    f"(br_if {label} (i32.lt_{self.random.choice('su')} (local.get {name}) (i32.const {times}))))")
        return (f"(local.set {name} (i32.const {times})) (loop {label} {body} "
                f"(br_if {label} (local.tee {name} (i32.sub (local.get {name}) (i32.const 1)))))")

    def fuelled_loop(self, depth):
        label, out = self.label(), self.label()
        times, self.loops = self.loops, self.loops * 8
        body = self.statements(depth)
        self.loops = times
        return (f"(block {out} (loop {label} {body} (global.set $fuel (i32.sub (global.get $fuel) (i32.const 25))) "
                f"(br_if {out} {self.condition(2)}) (br_if {label} (i32.gt_s (global.get $fuel) (i32.const 0)))))")

    def branch(self, depth):
        other = f" (else {self.statements(depth)})" if self.chance(0.6) else ""
        return f"(if {self.condition(3)} (then {self.statements(depth)}){other})"

    def block(self, depth):
        label = self.label()
        t = self.random.choice(TYPES)
        fitting = [n for n, u in self.locals if u == t]
        if fitting and self.chance(0.4):  # With a value, which may come from either end.
            return (f"(local.set {self.random.choice(fitting)} (block {label} (result {t}) {self.statements(depth, 2)} "
                    f"(drop (br_if {label} {self.expression(t, 2)} {self.condition(2)})) {self.expression(t, 2)}))")
        return f"(block {label} {self.statements(depth, 2)} (br_if {label} {self.condition(2)}) {self.statements(depth, 2)})"

    def with_parameters(self, depth):
        """A block, loop or `if` that takes values from the stack and leaves others."""
        taken = [self.random.choice(self.locals) for _ in range(self.random.randint(1, 3))]
        types = " ".join(t for _, t in taken)
        label, result = self.label(), self.random.choice(taken)
        values = lambda: self.arguments([t for _, t in taken], 2)
        sets = " ".join(f"(local.set {name})" for name, _ in reversed(taken))
        head = f"{label} (param {types}) (result {result[1]})"
        one = lambda: self.expression(result[1], 2)
        kind = self.random.choice(["block", "loop", "if"])
        if kind == "if":
            return (f"{values()} (if {head} {self.condition(2)} (then {sets} {self.statements(depth, 2)} {one()}) (else {sets} {self.statements(depth, 1)} {one()})) "
                    f"(local.set {result[0]})")
        if kind == "block":
            return f"{values()} (block {head} {sets} {self.statements(depth, 2)} {one()} (br_if {label} {self.condition(2)}) (drop) {one()}) (local.set {result[0]})"
        times, self.loops = self.loops, self.loops * 8
        body = self.statements(depth, 2)
        self.loops = times
        # The values for the next round stay on the stack where there is none; all but the first are dropped then.
        rest = " ".join(["(drop)"] * (len(taken) - 1))
        return (f"{values()} (loop {label} (param {types}) (result {taken[0][1]}) {sets} {body} (global.set $fuel (i32.sub (global.get $fuel) (i32.const 25))) "
                f"{values()} (br_if {label} (i32.and (i32.gt_s (global.get $fuel) (i32.const 0)) {self.condition(2)})) {rest}) (local.set {taken[0][0]})")

    def switch(self, depth):
        labels = [self.label() for _ in range(self.random.randint(2, 4))]
        table = " ".join(self.random.choice(labels) for _ in range(self.random.randint(1, 6)))
        text = f"(br_table {table} {self.random.choice(labels)} {self.expression('i32', 2)})"
        for label in labels:
            text = f"(block {label} {text}) {self.statements(depth, 1)}"
        return text

    def attempt(self, depth):
        tag = self.random.randrange(len(self.tags))
        thrown = f"(if {self.condition(2)} (then (throw $e{tag} {self.arguments(self.tags[tag], 1)})))"
        body = f"(do {self.statements(depth, 2)} {thrown} {self.statements(depth, 1)})"
        label, roll = self.label(), self.random.random()
        if roll < 0.1:  # Thrown on as if from the end of a block around.
            return f"(try (do (block (try {body} (delegate 0)))) (catch_all {self.statements(depth, 1)}))"
        caught = self.random.randrange(len(self.tags))
        drops = self.results_of("", self.tags[caught])
        on = f"(if {self.condition(2)} (then (rethrow {label})))" if roll < 0.5 else ""
        rest = f" (catch_all {self.statements(depth, 1)} {on})" if self.chance(0.6) else ""
        return f"(try {label} {body} (catch $e{caught} {drops} {self.statements(depth, 1)} {on}){rest})"

    # --- Expressions: leave one value ---
    def condition(self, depth):
        return self.expression("i32", depth)

    def canonical(self, t, text):
        return f"(call $c{t} {text})" if t[0] == "f" else text

    def leaf(self, t):
        r = self.random
        if t == "i32" and self.counters and self.chance(0.4):
            return f"(local.get {r.choice(self.counters)})"
        fitting = [n for n, u in self.locals if u == t]
        if fitting and self.chance(0.7):
            return f"(local.get {r.choice(fitting)})"
        fitting = [n for n, u in self.globals if u == t]
        if fitting and self.chance(0.5):
            return f"(global.get {r.choice(fitting)})"
        return self.constant(t)

    def expression(self, t, depth):
        r = self.random
        if depth <= 0:
            return self.leaf(t)
        sub = lambda u=t: self.expression(u, depth - 1)
        roll = r.random()
        if roll < 0.18:
            return self.leaf(t)
        if roll < 0.24:
            return f"(select {sub()} {sub()} {self.condition(depth - 1)})" if t != "v128" or self.chance(0.5) else f"(v128.bitselect {sub()} {sub()} {sub()})"
        if roll < 0.28:
            return f"(if (result {t}) {self.condition(depth - 1)} (then {sub()}) (else {sub()}))"
        if roll < 0.32:
            fitting = [n for n, u in self.locals if u == t]
            if fitting:
                return f"(local.tee {r.choice(fitting)} {sub()})"
        if roll < 0.36 and self.function.index + 1 < len(self.functions) and self.loops < 50:
            single = [f for f in self.functions[self.function.index + 1:] if f.results == [t]]
            if single:
                callee = r.choice(single)
                return f"(call {callee.name} {self.arguments(callee.params, min(depth - 1, 1))})"
        if roll < 0.48:
            return self.load(t, depth)
        return {"i32": self.integers, "i64": self.integers, "f32": self.floats, "f64": self.floats, "v128": self.vectors}[t](t, depth)

    def load(self, t, depth):
        address, offset = self.address(depth - 1)
        ops = {"i32": ["i32.load", "i32.load8_s", "i32.load8_u", "i32.load16_s", "i32.load16_u"],
               "i64": ["i64.load", "i64.load8_s", "i64.load16_u", "i64.load32_s", "i64.load32_u"], "f32": ["f32.load"], "f64": ["f64.load"],
               "v128": ["v128.load", "v128.load8x8_s", "v128.load16x4_u", "v128.load32x2_s", "v128.load8_splat", "v128.load16_splat", "v128.load32_splat",
                        "v128.load64_splat", "v128.load32_zero", "v128.load64_zero"]}[t]
        return f"({self.random.choice(ops)}{offset} {address})"

    def integers(self, t, depth):
        r = self.random
        sub = lambda u=t: self.expression(u, depth - 1)
        other = "i64" if t == "i32" else "i32"
        roll = r.random()
        if roll < 0.12:
            op = r.choice(UNARY[t])
            return f"({op} {sub()})"
        if roll < 0.2:
            right = sub() if self.chance(0.04) else f"({t}.or {sub()} ({t}.const 1))"
            left = sub()
            if self.chance(0.15):  # Where the machine's division overflows, and the optimiser does not see it coming.
                left, right = ("(global.get $least)", "(global.get $ones)") if t == "i64" else \
                    ("(i32.wrap_i64 (i64.shr_u (global.get $least) (i64.const 32)))", "(i32.wrap_i64 (global.get $ones))")
            return f"({t}.{r.choice(['div_s', 'div_u', 'rem_s', 'rem_s', 'rem_u'])} {left} {right})"
        if roll < 0.34 and t == "i32":
            u = r.choice(SCALARS)
            return f"({u}.{r.choice(COMPARE[u[0]])} {sub(u)} {sub(u)})"
        if roll < 0.42:
            return f"(i32.wrap_i64 {sub(other)})" if t == "i32" else f"(i64.extend_i32_{r.choice('su')} {sub(other)})"
        if roll < 0.5:
            u = r.choice(["f32", "f64"])
            op = "trunc" if self.chance(0.03) else "trunc_sat"
            return f"({t}.{op}_{u}_{r.choice('su')} {sub(u)})"
        if roll < 0.54:
            u = "f32" if t == "i32" else "f64"
            return f"({t}.reinterpret_{u} {self.canonical(u, sub(u))})"
        if roll < 0.62:
            shape = r.choice(["i64x2"] if t == "i64" else ["i8x16", "i16x8", "i32x4"])
            sign = "_" + r.choice("su") if shape in ("i8x16", "i16x8") else ""
            return f"({shape}.extract_lane{sign} {r.randrange(LANES[shape])} {sub('v128')})"
        if roll < 0.65 and t == "i32":
            shape = r.choice(["i8x16", "i16x8", "i32x4", "i64x2"])
            op = r.choice([f"{shape}.all_true", f"{shape}.bitmask", "v128.any_true"])
            return f"({op} {sub('v128')})"
        if roll < 0.67 and t == "i32":
            kind = r.choice(["funcref", "externref"])
            return r.choice([f"(table.size ${kind}s)", f"(ref.is_null {self.reference(kind)})", "(memory.size)", "(table.size $t)", f"(memory.grow (i32.and {sub()} (i32.const 1)))", f"(memory.grow {sub()})"])
        return f"({t}.{r.choice(BINARY['i32'])} {sub()} {sub()})"

    def floats(self, t, depth):
        r = self.random
        sub = lambda u=t: self.expression(u, depth - 1)
        roll = r.random()
        if roll < 0.2:
            return f"({r.choice(UNARY[t])} {sub()})"
        if roll < 0.27:
            return f"({t}.copysign {sub()} {self.canonical(t, sub())})"
        if roll < 0.37:
            u = r.choice(["i32", "i64"])
            return f"({t}.convert_{u}_{r.choice('su')} {sub(u)})"
        if roll < 0.42:
            return f"(f32.demote_f64 {sub('f64')})" if t == "f32" else f"(f64.promote_f32 {sub('f32')})"
        if roll < 0.47:
            return f"(f32.reinterpret_i32 {sub('i32')})" if t == "f32" else f"(f64.reinterpret_i64 {sub('i64')})"
        if roll < 0.54:
            shape = "f32x4" if t == "f32" else "f64x2"
            return f"({shape}.extract_lane {r.randrange(LANES[shape])} {sub('v128')})"
        return f"({t}.{r.choice(BINARY['f32'])} {sub()} {sub()})"

    def vectors(self, t, depth):
        r = self.random
        sub = lambda u="v128": self.expression(u, depth - 1)
        roll = r.random()
        if roll < 0.03:
            shape, (address, offset) = r.choice(["8", "16", "32", "64"]), self.address(depth - 1)
            return f"(v128.load{shape}_lane{offset} {r.randrange(128 // int(shape))} {address} {sub()})"
        if roll < 0.12:
            return f"({r.choice(UNARY['v128'])} {sub()})"
        if roll < 0.22:
            shape = r.choice(list(LANES))
            u = LANE_TYPE[shape]
            return f"({shape}.splat {self.canonical(u, sub(u))})"
        if roll < 0.32:
            shape = r.choice(list(LANES))
            u = LANE_TYPE[shape]
            return f"({shape}.replace_lane {r.randrange(LANES[shape])} {sub()} {self.canonical(u, sub(u))})"
        if roll < 0.4:
            shape = r.choice(["i8x16", "i16x8", "i32x4", "i64x2"])
            return f"({shape}.{r.choice(['shl', 'shr_s', 'shr_u'])} {sub()} {sub('i32')})"
        if roll < 0.46:
            return f"(i8x16.shuffle {' '.join(str(r.randrange(32)) for _ in range(16))} {sub()} {sub()})"
        if roll < 0.58:
            op = r.choice(FLOAT_LANES)
            return f"(call $c{op.split('.')[0]} ({op} {sub()} {sub()}))"
        if roll < 0.64:
            op = r.choice(FLOAT_LANES_UNARY)
            return f"(call $c{op.split('.')[0]} ({op} {sub()}))"
        return f"({r.choice(BINARY['v128'])} {sub()} {sub()})"

    # --- Exports ---
    def hashed(self, t, value):
        if t == "i32":
            return f"(i64.extend_i32_u {value})"
        if t == "f32":
            return f"(i64.extend_i32_u (i32.reinterpret_f32 (call $cf32 {value})))"
        if t == "f64":
            return f"(i64.reinterpret_f64 (call $cf64 {value}))"
        if t == "v128":
            return f"(call $mix (i64x2.extract_lane 0 {value}) (i64x2.extract_lane 1 {value}))"
        return value

    def wrap(self, name, function):
        """An export that calls `function` with constants and returns a hash of what it returns."""
        results = function.results
        own = "".join(f" (local $r{i} {t})" for i, t in enumerate(results))
        sets = " ".join(f"(local.set $r{i})" for i in reversed(range(len(results))))
        value = "(i64.const 1)"
        for i, t in enumerate(results):
            value = f"(call $mix {value} {self.hashed(t, f'(local.get $r{i})')})"
        arguments = " ".join(self.constant(t) for t in function.params)
        self.wrappers.append(f"  (func ${name} (export \"{name}\") (result i64){own}\n    (global.set $fuel (i32.const {FUEL})) (global.set $depth (i32.const {DEPTH}))\n"
                             f"    {self.caught(f'(call {function.name} {arguments}) {sets} {value}')})\n")
        self.exports.append(name)

    def caught(self, body):
        return f"(try (result i64) (do {body}) (catch_all (i64.const 2)))" if self.exceptions else body

    def text(self, imports="", extra=""):
        r = random.Random(str(self.exports))
        state = "(local.get $h)"
        for name, t in self.globals:
            state = f"(call $mix {state} {self.hashed(t, f'(global.get {name})')})"
        others = [f for f in self.functions if f not in self.same] or self.functions
        first = [r.choice(self.same).name for _ in range(SLOTS // 2)]
        second = [r.choice(others).name for _ in range(SLOTS // 2 - 1)]  # Behind a null.
        parts = ["(module\n", imports, "  (type $shared (func", "".join(f" (param {t})" for t in self.shared[0]), "".join(f" (result {t})" for t in self.shared[1]), "))\n"]
        parts += [f"  (tag $e{i}{''.join(f' (param {t})' for t in types)})\n" for i, types in enumerate(self.tags)]
        parts += [PRELUDE, f"  (table $t {SLOTS} {SLOTS} funcref)\n  (elem (i32.const 0) {' '.join(first)})\n  (elem (i32.const {SLOTS // 2 + 1}) {' '.join(second)})\n", "  (data (i32.const 65520) \"\\01\\02\\f3\\84the end\")\n",
                  "  (data (i32.const 0) \"" + "".join(f"\\{byte:02x}" for byte in self.data) + "\")\n",
                  "  (data $d \"0123456789abcdef\")\n"]
        parts += [f"  (table ${kind}s 2 {GROWN} {kind})\n" for kind in ("funcref", "externref")]
        parts += [f"  (elem $e func {' '.join(f.name for f in (self.same * 4)[:4])})\n",
                  f"  (elem (table $funcrefs) (i32.const 0) func {self.same[0].name} {self.same[-1].name})\n"]
        parts += [f"  (global {name} (mut {t}) {self.zero(t)})\n" for name, t in self.globals]
        parts += [f"  (elem declare func {' '.join(f.name for f in self.same)})\n"]
        parts += self.bodies + self.wrappers
        parts.append("  (func $state (export \"state\") (result i64) (local $h i64) (local $i i32)\n    (loop $l (local.set $h (call $mix (local.get $h) (i64.load (local.get $i))))\n"
                     f"      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 8))) (i32.const {MEMORY}))))\n    {state})\n")
        return "".join(parts) + extra + ")\n"

    def zero(self, t):
        return "(v128.const i64x2 0 0)" if t == "v128" else f"({t}.const 0)"
