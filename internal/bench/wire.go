package bench

import "time"

// The first byte that a connection carries tells the backend what to do with it. It arrives in the first message, so that
// it costs no call of its own.
const (
	modeWait   = 'W' // send this byte back, and wait for another to tell: the connection stands from end to end
	modeEcho   = 'E' // send everything back, this byte too
	modeSource = 'S' // send until the connection ends
	modeSink   = 'D' // discard until the connection ends
	modeAnswer = 'A' // requests of requestSize bytes: this byte, then a length (little endian): send as many bytes
)

const requestSize = 9

// Kind is what the load generator does in one measurement.
type Kind string

// The kinds of measurement.
const (
	Bulk     Kind = "bulk"     // Conns streams from the upstream to the client
	Upload   Kind = "upload"   // Conns streams from the client to the upstream
	PingPong Kind = "pingpong" // Conns connections, each with one message of Size bytes under way and echoed
	Churn    Kind = "churn"    // Conns at a time: connect, echo Size bytes, close
	Answer   Kind = "answer"   // one connection, asking for Size bytes and waiting for all of them, again and again
	Hold     Kind = "hold"     // open Conns connections, echo one byte on each, and keep them
	Release  Kind = "release"  // close what Hold opened
)

// Op is one order to the load generator.
type Op struct {
	Kind   Kind
	Addr   string // addr:port, or /path of a UNIX stream socket
	Conns  int
	Size   int           // bytes of a message
	Warm   time.Duration // not measured
	Window time.Duration // measured; for Hold, the time after which it gives up
	Meter  Meter         // the processor time of the forwarder under test
}

// Sample is the answer: raw counts of one measurement.
type Sample struct {
	Done    int64 // requests, connections or, of Hold, connections open
	Bytes   int64 // payload that reached the receiving end (Upload: that the sending end gave away)
	Elapsed time.Duration
	CPU     time.Duration // of the forwarder in the same window; negative: not known
	P50     time.Duration
	P99     time.Duration
	P999    time.Duration
	Slowest int64 // bytes of the slowest and of the fastest stream
	Fastest int64
	Failed  int64  // connections that were refused, reset or cut short
	Err     string // the first failure in words
}
