// mqtt.js as a peer: `node client.js WHAT JSON`. JSON has the options of mqtt.connect(), and what else WHAT takes.
'use strict'
const mqtt = require('mqtt')
const fs = require('node:fs')
const crypto = require('node:crypto')

const [what, json] = process.argv.slice(2)
const { url, files, ...given } = JSON.parse(json)
for (const option in given) if (given[option] === null) delete given[option]
for (const [option, file] of Object.entries(files ?? {})) given[option] = fs.readFileSync(file)
const isFive = given.protocolVersion === 5

const say = (...words) => console.log(words.join(' '))
const connect = more => mqtt.connect(url, { reconnectPeriod: 0, ...given, ...more })
const connected = more => mqtt.connectAsync(url, { reconnectPeriod: 0, ...given, ...more })
const once = (client, event) => new Promise(resolve => client.once(event, (...all) => resolve(all)))
const published = (client, topic, payload, options) =>
  client.publishAsync(topic, payload, { qos: 1, ...options }).then(() => 'published', error => `refused ${error.code}`)

// What a client got, one by one.
function inbox(client) {
  const got = []
  let wake = () => {}
  client.on('message', (topic, payload, { qos, retain, properties }) => {
    got.push([topic, payload, `${qos}${retain ? ' retained' : ''}`, JSON.stringify(properties) ?? ''].join(' ').trim())
    wake()
  })
  return async () => {
    while (!got.length) await new Promise(resolve => { wake = resolve })
    say(got.shift())
  }
}

const tasks = {
  // Publishes with each QoS, and takes the command that waits.
  async tour() {
    const client = await connected()
    const next = inbox(client)
    await client.subscribeAsync('foreign/#').then(() => say('granted'), error => say(error.message))
    const [{ qos }] = await client.subscribeAsync('set/led', { qos: 1 })
    say('granted', qos)
    await next()
    const properties = isFive ? { contentType: 'application/json' } : undefined
    for (const qos of [0, 1, 2]) {
      say(await published(client, `${given.topic}/${qos}`, String(qos), { qos, properties }))
    }
    await client.endAsync()
  },

  // Two clients: what one publishes, the other gets, its will too.
  async local() {
    const reader = await connected({ clientId: 'reader' })
    const next = inbox(reader)
    await reader.subscribeAsync(['home/#', 'readings/#'], { qos: 2 })
    const properties = { contentType: 'text/plain', userProperties: { of: ['pump', 'two'] } }
    const will = { topic: 'home/pump-2/state', payload: 'gone', qos: 1, retain: true, ...(isFive && { properties }) }
    const writer = await connected({ clientId: 'writer', will })
    await published(writer, 'home/pump-2/state', 'here', { retain: true })
    await next()
    const request = {
      ...properties, payloadFormatIndicator: true, responseTopic: 'home/pump-2/answer', correlationData: Buffer.from('7'),
    }
    await published(writer, 'home/pump-2/ask', '?', { qos: 2, properties: isFive ? request : undefined })
    await next()
    await published(writer, 't/alias', '1', { properties: isFive ? { topicAlias: 1 } : undefined })
    await next()
    await published(writer, isFive ? '' : 't/alias', '2', { properties: isFive ? { topicAlias: 1 } : undefined })
    await next()
    writer.stream.destroy()
    await next()
    await reader.endAsync()
    const late = connect({ clientId: 'late' })
    const retained = inbox(late)
    late.subscribe('home/+/state', { qos: 0 })
    await retained()
    await late.endAsync()
  },

  // What may not pass, and what comes after it.
  async refused() {
    // No faster: its device may connect 120 times a minute.
    const client = connect({ reconnectPeriod: 500 })
    client.on('close', () => say('closed'))
    for (const [topic, payload] of [['nowhere', '1'], ['a//b', '1'], ['t/large', 'x'.repeat(66_000)], ['t/after', '1']]) {
      const outcome = published(client, topic, payload).then(outcome => say(topic, outcome))
      if (isFive) await outcome
    }
    if (isFive) await client.endAsync(true)
  },

  // Publishes 1, 2, 3, …, and says which were acknowledged, on standard error which were not.
  async numbers() {
    const client = connect({ reconnectPeriod: 100 })
    client.on('error', () => {}) // it is killed now and then
    let number = 0
    const one = () => {
      const own = ++number
      client.publish(given.topic, String(own), { qos: given.qos }, error => {
        if (error) console.error(own, error.message)
        else say(own)
        setImmediate(one)
      })
    }
    for (let at = 0; at < 30; at++) one()
  },

  // A token that expires within three seconds, with all the drift there is, and then another.
  async token() {
    const encoded = value => Buffer.from(JSON.stringify(value)).toString('base64url')
    const token = (iat, exp) => {
      const now = Math.floor(Date.now() / 1000)
      const text = `${encoded({ alg: 'ES256', typ: 'JWT' })}.${encoded({ aud: 'gw', iat: now + iat, exp: now + exp })}`
      const key = { key: fs.readFileSync(given.tokenKey), dsaEncoding: 'ieee-p1363' }
      return `${text}.${crypto.sign('sha256', text, key).toString('base64url')}`
    }
    const client = connect({ reconnectPeriod: 100, username: 'unused', password: token(-4000, -597) })
    client.on('disconnect', ({ reasonCode }) => say('disconnect', reasonCode))
    await once(client, 'connect')
    say('connected')
    await once(client, 'close')
    client.options.password = token(0, 3600)
    await once(client, 'connect')
    say('connected', await published(client, 't/token', '1'))
    await client.endAsync()
  },
}

if (what !== 'numbers') setTimeout(() => { console.error('late'); process.exit(1) }, 60_000).unref()
tasks[what]().catch(error => { console.error(error); process.exit(1) })
