// Sends clicks of one user, and prints the recommendation that answers each of them; then does the
// same over HTTP, and asks for the list of a history.
//
//   npm start -- --brokers localhost:9092 --user alice 1 2 3

import { randomUUID } from 'node:crypto'
import { parseArgs } from 'node:util'
import {
  Consumer,
  FetchIsolationLevels,
  MessagesStreamModes,
  Producer,
  compatibilityPartitioner,
  compressionsAlgorithms,
  stringDeserializers,
  stringSerializers
} from '@platformatic/kafka'
import { decompress } from 'fzstd'
import type { Click } from './generated/click.js'
import type { components } from './generated/http.js'
import type { Recommendation } from './generated/recommendation.js'

type Http = components['schemas']

const PATIENCE_MS = 60_000

const { values: options, positionals: items } = parseArgs({
  allowPositionals: true,
  options: {
    brokers: { type: 'string', default: 'localhost:9092' },
    clicks: { type: 'string', default: 'clicks' },
    recommendations: { type: 'string', default: 'recommendations' },
    user: { type: 'string', default: 'alice' },
    api: { type: 'string' } // URL of `nextclick api`; missing = do not ask it
  }
})

// The worker compresses with zstd, which Node has since 22.15; before, it is read by JavaScript.
if (!compressionsAlgorithms.zstd.available) {
  Object.assign(compressionsAlgorithms.zstd, {
    decompressSync: (data: Buffer) => Buffer.from(decompress(data))
  })
}

const bootstrapBrokers = options.brokers.split(',')
const consumer = new Consumer({
  clientId: 'shop',
  groupId: `shop-${randomUUID()}`,
  bootstrapBrokers,
  deserializers: stringDeserializers,
  isolationLevel: FetchIsolationLevels.READ_COMMITTED
})
const producer = new Producer({
  clientId: 'shop',
  bootstrapBrokers,
  serializers: stringSerializers,
  idempotent: true, // and waits for all replicas
  partitioner: compatibilityPartitioner // Kafka's own: the default one takes another partition
})
try {
  const answers = await answersFromNowOn(options.recommendations)
  const open = await send(options.clicks, options.user, items)
  await readAnswers(answers, open)
} finally {
  await producer.close(true)
  await consumer.close(true)
}
if (options.api !== undefined) {
  await clickOverHttp(options.api, options.user, items.at(-1) ?? '')
  await ask(options.api, items)
}

/** The topic's messages from its present end. */
async function answersFromNowOn(topic: string) {
  const ends = await consumer.listOffsets({ topics: [topic] })
  const offsets = (ends.get(topic) ?? []).map((offset, partition) => ({ topic, partition, offset }))
  return consumer.consume({ topics: [topic], mode: MessagesStreamModes.MANUAL, offsets })
}

/** What an answer is known by: a second one with the same key is a repetition. */
function answerKey(userId: string, eventId: string): string {
  return JSON.stringify([userId, eventId])
}

/** Produces a click on each item, and returns when Kafka has them all. */
async function send(topic: string, user: string, items: string[]): Promise<Map<string, string>> {
  const sent = new Map<string, string>()
  for (const item of items) {
    const click: Click = {
      event_id: randomUUID(), // keep it for a retry of your own: a click counts once by it
      user_id: user,
      item_id: item,
      timestamp: Date.now()
    }
    await producer.send({ messages: [{ topic, key: user, value: JSON.stringify(click) }] })
    sent.set(answerKey(user, click.event_id), item)
  }
  return sent
}

/** Prints the answer to each of the clicks once. */
async function readAnswers(
  messages: Awaited<ReturnType<typeof answersFromNowOn>>,
  open: Map<string, string>
): Promise<void> {
  const late = setTimeout(
    () => messages.destroy(new Error(`${open.size} clicks are not answered`)),
    PATIENCE_MS
  )
  for await (const { value } of messages) {
    const answer = JSON.parse(value) as Recommendation
    const key = answerKey(answer.user_id, answer.event_id)
    const item = open.get(key)
    if (item === undefined) continue // somebody else's, or a repetition
    open.delete(key)
    console.log(`after ${item}: ${ids(answer.items)}`)
    if (open.size === 0) break
  }
  clearTimeout(late)
}

/** Publishes a click, and prints the list for the history that it ends. */
async function clickOverHttp(api: string, user: string, item: string): Promise<void> {
  const click: Http['ClickRequest'] = {
    event_id: randomUUID(), // the same one if you send it again after an error
    user_id: user,
    item_id: item,
    event_type: 'click'
  }
  const { recommendations } = await post<Http['ClickAccepted']>(
    `${api}/clicks?recommend=true&k=3`,
    click
  )
  if (!recommendations) throw new Error('the click is published, but there is no list now')
  console.log(`after ${item} over HTTP: ${ids(recommendations.items)}`)
}

/** Prints the list for a history that comes with the request. */
async function ask(api: string, history: string[]): Promise<void> {
  const request: Http['HistoryRequest'] = { history, k: 3 }
  const { items } = await post<Http['Recommendations']>(`${api}/recommendations`, request)
  console.log(`for the history: ${ids(items)}`)
}

async function post<Response>(url: string, body: unknown): Promise<Response> {
  const key = process.env.NEXTCLICK_API__KEY
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', ...(key ? { 'X-API-Key': key } : {}) },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(PATIENCE_MS)
  })
  if (!response.ok) throw new Error(`${url} answers ${response.status}: ${await response.text()}`)
  return (await response.json()) as Response
}

function ids(items: { item_id: string }[]): string {
  return `[${items.map(item => item.item_id).join(' ')}]`
}
