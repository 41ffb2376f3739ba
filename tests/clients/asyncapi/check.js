// Parses a document by AsyncAPI's own parser, and prints its errors and warnings: node check.js FILE
import { fromFile, Parser } from '@asyncapi/parser'

const WARNING = 1 // 0: error, 2: information (that there is a newer AsyncAPI), 3: hint

const { document, diagnostics } = await fromFile(new Parser(), process.argv[2]).parse()
const found = diagnostics.filter(({ severity }) => severity <= WARNING)
for (const { path, message } of found) console.log(`${path.join('.')}: ${message}`)
process.exitCode = document && found.length === 0 ? 0 : 1
