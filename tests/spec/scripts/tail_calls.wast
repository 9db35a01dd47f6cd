;; Tail calls take no stack, however many, whatever their types; also between instances.
(module $even
  (type $step (func (param i32) (result i32)))
  (table (export "table") 8 funcref)
  (elem (i32.const 0) $even)
  (func $even (export "even") (param i32) (result i32)
    (if (result i32) (i32.eqz (local.get 0))
      (then (i32.const 1))
      (else (return_call_indirect (type $step) (i32.sub (local.get 0) (i32.const 1)) (i32.const 1))))))
(register "even" $even)

(module $odd
  (type $step (func (param i32) (result i32)))
  (import "even" "even" (func $even (param i32) (result i32)))
  (import "even" "table" (table 8 funcref))
  (elem (i32.const 1) $odd)
  (func $odd (export "odd") (param i32) (result i32)
    (if (result i32) (i32.eqz (local.get 0))
      (then (i32.const 0))
      (else (return_call $even (i32.sub (local.get 0) (i32.const 1)))))))
(assert_return (invoke $even "even" (i32.const 1000000)) (i32.const 1))
(assert_return (invoke $odd "odd" (i32.const 1000001)) (i32.const 1))
(assert_return (invoke $odd "odd" (i32.const 1000000)) (i32.const 0))

(module
  (memory 1)
  (tag $e (param i32))
  ;; Few parameters to many and back: arguments on the stack of a caller that has none.
  (func $few (export "few") (param $n i32) (result i64)
    (if (i32.eqz (local.get $n)) (then (return (i64.const -1))))
    (return_call $many (i32.sub (local.get $n) (i32.const 1)) (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4)
      (i64.const 5) (i64.const 6) (f64.const 7) (f64.const 8) (f32.const 9) (f64.const 10) (f64.const 11) (f64.const 12)
      (f64.const 13) (f64.const 14) (f64.const 15) (i64.const 16) (i64.const 17)))
  (func $many (param $n i32) (param i64 i64 i64 i64 i64 i64 f64 f64 f32 f64 f64 f64 f64 f64 f64 i64 i64) (result i64)
    (if (i32.eqz (local.get $n))
      (then (return (i64.add (i64.add (local.get 1) (local.get 6)) (i64.add (local.get 17)
        (i64.add (i64.trunc_f64_s (local.get 15)) (i64.trunc_f32_s (local.get 9))))))))
    (return_call $few (i32.sub (local.get $n) (i32.const 1))))

  ;; Several results, and a memory that shows that each step ran.
  (func $pair (export "pair") (param $n i32) (result i32 f64)
    (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))
    (if (i32.eqz (local.get $n)) (then (return (i32.load (i32.const 0)) (f64.const 0.5))))
    (return_call $pair (i32.sub (local.get $n) (i32.const 1))))
  (func (export "vectors") (param i32) (result v128) (return_call $vectors (local.get 0) (v128.const i32x4 1 2 3 4)))
  (func $vectors (param $n i32) (param $v v128) (result v128)
    (if (i32.eqz (local.get $n)) (then (return (local.get $v))))
    (return_call $vectors (i32.sub (local.get $n) (i32.const 1)) (i32x4.add (local.get $v) (v128.const i32x4 1 1 1 1))))

  ;; A tail call leaves the try that it stands in.
  (func $throws (param i32) (result i32) (throw $e (local.get 0)))
  (func $leaves (param i32) (result i32)
    (try (result i32) (do (return_call $throws (local.get 0))) (catch $e (drop) (i32.const -1))))
  (func (export "leaves") (param i32) (result i32)
    (try (result i32) (do (call $leaves (local.get 0))) (catch $e (i32.const 100) (i32.add)))))
(assert_return (invoke "few" (i32.const 1000000)) (i64.const -1))
(assert_return (invoke "few" (i32.const 1000001)) (i64.const 48))
(assert_return (invoke "pair" (i32.const 999999)) (i32.const 1000000) (f64.const 0.5))
(assert_return (invoke "vectors" (i32.const 300000)) (v128.const i32x4 300001 300002 300003 300004))
(assert_return (invoke "leaves" (i32.const 5)) (i32.const 105))
;; An ordinary call in tail position still takes stack.
(module (func $f (export "f") (param i64) (result i64) (call $f (i64.add (local.get 0) (i64.const 1)))))
(assert_exhaustion (invoke "f" (i64.const 0)) "call stack exhausted")
