// Package bench measures TCP forwarders against each other on one machine: what they cost in processor time, what they
// carry per second, how long a message takes, and what a connection at rest holds.
//
// It guarantees that every figure is from the same run: the peers are measured in turn, round after round, with direct
// connections (no forwarder) in between, and a figure is shown with its minimum and maximum and as a ratio to the direct
// measurements next to it. All traffic stays in network namespaces of its own where the kernel lets it make them, and on
// the loopback device otherwise; every process it starts lives in a PID namespace that ends with it.
//
// It does not guarantee quiet: other load on the machine moves every figure. The spread of the direct measurements is
// therefore reported, and a comparison that it drowns is called noise. Real network cards are not measured.
//
// Parts, in the order in which a run meets them: namespaces (stage.go), the peers (peers.go, start.go), the two ends of
// the traffic (backend.go, load.go), accounting (meter.go, memory.go), the rounds (run.go, rest.go, growth.go), and what
// is made of the figures (stats.go, marks.go, report.go, plot.go).
package bench
