// Syd-tor forwards the connections of a listening socket, which it receives from its owner, to one external
// address. It is a drop-in for syd-tor(1).
package main

import (
	"fmt"
	"os"

	"syd/internal/config"
	"syd/internal/exit"
	"syd/internal/handoff"
	"syd/internal/jail"
	"syd/internal/monitor"
	"syd/internal/vault"
	"syd/internal/version"
)

func main() {
	err := run()
	code := exit.Of(err)
	if code != exit.OK {
		fmt.Fprintf(os.Stderr, "syd-tor: %v\n", err)
	}
	os.Exit(int(code))
}

func run() error {
	c, err := config.Parse(os.Args[1:], os.LookupEnv)
	switch {
	case err != nil:
		return err
	case c.Help:
		fmt.Print(config.Help, "\n", exit.Help())
		return nil
	case c.Version:
		fmt.Println("syd-tor", version.Version)
		return nil
	}
	if c.Check != config.NoCheck {
		return check(c)
	}
	return forward(c)
}

// forward is the data flow: owner and socket, then the listener, the vault, the relays in their jail.
func forward(c *config.Config) error {
	j, err := jail.New(c.Upstream, c.Without, c.Debug)
	if err != nil {
		return err
	}
	owner, err := handoff.Owner(c.OwnerFD)
	if err != nil {
		return err
	}
	if err := handoff.Socket(c.SocketFD); err != nil {
		return err
	}
	listener, err := handoff.Receive(c.SocketFD, owner)
	if err != nil {
		return err
	}
	v, err := vault.New(j.Sockaddr())
	if err != nil {
		return err
	}
	m, err := monitor.Start(c, j, listener, owner, v)
	if err != nil {
		return err
	}
	m.Rest()
	return nil
}

// check carries out the confinement as forward does, and prints what became of it instead of forwarding.
func check(c *config.Config) error {
	j, err := jail.New(c.Upstream, c.Without, c.Debug)
	if err != nil {
		return err
	}
	v, err := vault.New(j.Sockaddr())
	if err != nil {
		return err
	}
	err = monitor.Check(c, j, v)
	report := j.Report()
	write := report.Text
	if c.Check == config.CheckJSON {
		write = report.JSON
	}
	switch printed := write(os.Stdout); {
	case err != nil:
		return err
	case printed != nil:
		return exit.Errorf(exit.OS, "write: %w", printed)
	case !report.Holds:
		return exit.Errorf(exit.Unavailable, "not every confinement step holds here")
	}
	return nil
}
