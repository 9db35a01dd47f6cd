// Writes the compressed Arrow files of built_in_test.cc with Polars (an implementation in Rust):
//   npm install nodejs-polars@0.8.4 && node arrow_compressed_fixtures.mjs FOLDER
import pl from 'nodejs-polars';
import fs from 'fs';

const rows = Array.from({ length: 3000 }, (_, i) => `${i},name ${i % 50},${(Math.floor(i / 8) / 4).toFixed(2)},${i % 7 ? i % 20 : ''}`);
const table = pl.readCSV(['id,name,weight,holes', ...rows].join('\n'));
for (const compression of ['lz4', 'zstd']) fs.writeFileSync(`${process.argv[2]}/items-${compression}.arrow`, table.writeIPC({ compression }));
