// Writes the Arrow files of built_in_test.cc with the Apache Arrow implementation for JavaScript:
//   npm install apache-arrow@21 && node arrow_fixtures.mjs FOLDER
import fs from 'fs';
import * as arrow from 'apache-arrow';

const folder = process.argv[2];
const kinds = ['apple', 'pear, green', 'say "fig"'];
const batches = [];
for (let first = 0; first < 3000; first += 1000) {
  const rows = Array.from({ length: 1000 }, (_, i) => first + i);
  batches.push(new arrow.Table({
    nested: arrow.vectorFromArray(rows.map((i) => [i, i]), new arrow.List(new arrow.Field('item', new arrow.Int32()))),
    id: arrow.vectorFromArray(rows, new arrow.Int32()),
    big: arrow.vectorFromArray(rows.map((i) => BigInt(i) * 1000000007n), new arrow.Int64()),
    kind: arrow.vectorFromArray(rows.map((i) => kinds[i % 3])),  // Utf8 with a dictionary.
    name: arrow.vectorFromArray(rows.map((i) => `name ${i}`), new arrow.Utf8()),
    weight: arrow.vectorFromArray(rows.map((i) => i / 4), new arrow.Float64()),
    small: arrow.vectorFromArray(rows.map((i) => i / 8), new arrow.Float32()),
    day: arrow.vectorFromArray(rows.map((i) => new Date(Date.UTC(2024, 0, 1) + i * 86400000)), new arrow.DateDay()),
    even: arrow.vectorFromArray(rows.map((i) => i % 2 === 0), new arrow.Bool()),
    tiny: arrow.vectorFromArray(rows.map((i) => i % 200), new arrow.Uint8()),
    holes: arrow.vectorFromArray(rows.map((i) => (i % 7 ? i : null)), new arrow.Int16()),
  }));
}
const table = batches[0].concat(batches[1], batches[2]);
fs.writeFileSync(`${folder}/items.arrow`, arrow.tableToIPC(batches[0], 'file'));  // Files cannot replace a dictionary, streams can.
fs.writeFileSync(`${folder}/items.arrows`, arrow.tableToIPC(table, 'stream'));
