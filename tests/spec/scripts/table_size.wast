;; A table's size is read again and again in a loop that stops: no address of the table may be live there.
(module
  (table $t 3 3 funcref)
  (func (export "sizes") (param i32) (result i32) (local $sum i32)
    (loop $l
      (local.set $sum (i32.add (local.get $sum) (table.size $t)))
      (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
    (local.get $sum)))
(assert_return (invoke "sizes" (i32.const 1000)) (i32.const 3000))
