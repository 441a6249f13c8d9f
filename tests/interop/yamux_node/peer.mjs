// A peer for our sessions, on libp2p's yamux: stricter than Go's, and written by others.
//
//   node peer.mjs -connect HOST:PORT -role client|server -mode serve|drive
//
// What it does, and what it prints, is as in ../yamux_peer/main.go, as far as that goes.
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import { parseArgs } from 'node:util'

import { yamux } from '@chainsafe/libp2p-yamux'
import { defaultLogger } from '@libp2p/logger'

// Options of one dash, as the Go program has them.
const { values: options } = parseArgs({
  args: process.argv.slice(2).map((word) => word.replace(/^-(?=[a-z])/, '--')),
  options: {
    connect: { type: 'string' },
    role: { type: 'string', default: 'client' },
    mode: { type: 'string', default: 'serve' }
  }
})

function pattern (size) {
  const data = Buffer.alloc(size)
  for (let at = 0; at < size; at++) data[at] = (at * 7 + (at >> 9)) & 255
  return data
}

function require (holds, message) {
  if (!holds) throw new Error(message)
}

async function readAll (source) {
  const pieces = []
  for await (const piece of source) pieces.push(piece.subarray())
  return Buffer.concat(pieces)
}

function * pieces (data) {
  for (let at = 0; at < data.length; at += 50000) yield data.subarray(at, at + 50000)
}

// Do what the first line says.
async function serveStream (stream) {
  const incoming = stream.source[Symbol.asyncIterator]()
  let line = Buffer.alloc(0)
  let end
  while ((end = line.indexOf('\n')) < 0) {
    const { value, done } = await incoming.next()
    if (done) return await stream.close()
    line = Buffer.concat([line, value.subarray()])
  }
  const [command, argument] = line.subarray(0, end).toString().split(' ')
  const rest = (async function * () {
    if (line.length > end + 1) yield line.subarray(end + 1)
    for (let next = await incoming.next(); !next.done; next = await incoming.next()) yield next.value
  })()
  switch (command) {
    case 'echo':
      return await stream.sink(rest)
    case 'sink': {
      const data = await readAll(rest)
      return await stream.sink([Buffer.from(`${data.length} ${createHash('sha256').update(data).digest('hex')}`)])
    }
    case 'source':
      await stream.sink(pieces(pattern(Number(argument))))
      return await readAll(rest)
  }
  stream.abort(new Error(`unknown command ${command}`))
}

// Open a stream, say that and nothing more, and give what comes back.
async function ask (muxer, command, data = Buffer.alloc(0)) {
  const stream = await muxer.newStream()
  const said = stream.sink(pieces(Buffer.concat([Buffer.from(command + '\n'), data])))
  const answer = await readAll(stream.source)
  await said
  return answer
}

async function drive (muxer) {
  await Promise.all(Array.from({ length: 20 }, async (_, number) => {
    const data = pattern(300000 + number)
    require(data.equals(await ask(muxer, 'echo', data)), 'an echo is not what was said')
  }))
  console.log('echoed')
  const data = pattern(1000000)
  const expected = `${data.length} ${createHash('sha256').update(data).digest('hex')}`
  require(String(await ask(muxer, 'sink', data)) === expected, 'half closed')
  console.log('half closed')
  for (let number = 0; number < 50; number++) {
    require(pattern(number * 20000).equals(await ask(muxer, `source ${number * 20000}`)), `source ${number}`)
  }
  console.log('read sources')
  await muxer.ping()
  console.log('pinged')
}

const [host, port] = options.connect.split(':')
const socket = connect(Number(port), host)
socket.setNoDelay(true)
await once(socket, 'connect')
const muxer = yamux()({ logger: defaultLogger() }).createStreamMuxer({
  direction: options.role === 'client' ? 'outbound' : 'inbound',
  onIncomingStream: (stream) => { serveStream(stream).catch((error) => console.error('stream failed:', error)) }
})
const reading = muxer.sink(socket)
const writing = (async () => {
  for await (const piece of muxer.source) {
    if (!socket.write(piece.subarray())) await once(socket, 'drain')
  }
  socket.end()
})()
if (options.mode === 'drive') {
  await drive(muxer)
  await muxer.close()
} else {
  await reading
}
await writing
console.log('done')
socket.destroy()
