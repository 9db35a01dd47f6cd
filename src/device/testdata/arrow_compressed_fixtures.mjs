// Writes one of the compressed Arrow files of built_in_test.cc with Polars (an implementation in Rust): up to 0.8 its texts have offsets of 64 bits, now they are views.
//   npm install nodejs-polars@0.8.4 && node arrow_compressed_fixtures.mjs items-lz4.arrow lz4
//   npm install nodejs-polars@0.8.4 && node arrow_compressed_fixtures.mjs items-zstd.arrow zstd
//   npm install nodejs-polars@0.26.1 nodejs-polars-linux-x64-gnu@0.26.1 && node arrow_compressed_fixtures.mjs items-views.arrow zstd
import pl from 'nodejs-polars';
import fs from 'fs';

const name = (i) => (i % 5 ? `name ${i % 50}` : `a name of more than twelve bytes: ${i % 50}`);
const rows = Array.from({ length: 3000 }, (_, i) => `${i},${name(i)},${(Math.floor(i / 8) / 4).toFixed(2)},${i % 7 ? i % 20 : ''}`);
const table = pl.readCSV(['id,name,weight,holes', ...rows].join('\n'));
fs.writeFileSync(process.argv[2], table.writeIPC({ compression: process.argv[3] }));
