// Syd runs a program in a network of its own, from which syd-tor is the only way out. See package launch.
package main

import (
	"fmt"
	"os"
	"runtime"

	"syd/internal/exit"
	"syd/internal/launch"
	"syd/internal/version"
)

// Capabilities belong to threads, and what the main thread has is what an executed program gets.
func init() { runtime.LockOSThread() }

func main() {
	if launch.IsStage() {
		os.Exit(int(exit.Of(launch.Stage()))) // which has told syd why
	}
	code, err := run(os.Args[1:])
	if err != nil {
		launch.Say("%v", err)
		code = exit.Of(err)
	}
	os.Exit(int(code))
}

func run(args []string) (exit.Code, error) {
	opts, err := launch.ParseArgs(args)
	if err != nil {
		return 0, err
	}
	switch {
	case opts.Help:
		return exit.OK, launch.WriteHelp(os.Stdout)
	case opts.Version:
		_, err := fmt.Println("syd", version.Version)
		return exit.OK, err
	}
	settings, err := opts.Settings()
	if err != nil {
		return 0, err
	}
	return launch.Run(opts, settings)
}
