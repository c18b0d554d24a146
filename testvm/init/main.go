// Init is PID 1 of the test guests. It mounts, brings loopback up, runs the programs of the plan one after the
// other, each as its own user and with its own time limit, reports every step as an event, and powers off.
//
// It guarantees that no process of one program lives into the next, and that End is sent only after every program
// was waited for and reported. Its own failures are events too where the port works, else a line on the console.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"syd/testvm/event"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this is PID 1 of a test guest and powers the machine off; it runs nowhere else")
		os.Exit(64)
	}
	err := run()
	if err != nil {
		fmt.Fprintf(os.Stderr, "init: %v\n", err) // stderr is the console
	}
	// Never return: the kernel panics when PID 1 exits, and the host would see a panic where the cause is ours.
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func run() error {
	if err := root(); err != nil {
		return err
	}
	for _, m := range mounts {
		if err := m.mount(); err != nil {
			return err
		}
	}
	plan, err := load()
	if err != nil {
		return err
	}
	port, err := open(plan.Port)
	if err != nil {
		return err
	}
	out := &event.Writer{W: port}
	err = programs(plan, out)
	if err != nil {
		err = errors.Join(err, out.Send(event.Event{Kind: event.Fatal, Data: []byte(err.Error())}))
	}
	// Bytes still in the UART's queue are lost at power-off. tcdrain(3) is TCSBRK with 1.
	return errors.Join(err, unix.IoctlSetInt(int(port.Fd()), unix.TCSBRK, 1))
}

// root puts a mount of its own over the kernel's rootfs. pivot_root(2) refuses a root that has no parent mount, and
// the initramfs is just that: without this step the relay's empty root could not be had in any guest.
func root() error {
	const stage = "/root"
	if err := os.MkdirAll(stage, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/", stage, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind root: %w", err)
	}
	if err := os.Chdir(stage); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	return os.Chdir("/")
}

type mount struct {
	fs, dir, opts string
	flags         uintptr
}

// mounts is in order: parents first.
var mounts = []mount{
	{"proc", "/proc", "", 0},
	{"sysfs", "/sys", "", 0},
	{"devtmpfs", "/dev", "mode=0755", 0},
	{"devpts", "/dev/pts", "mode=0620,ptmxmode=0666", 0},
	{"tmpfs", "/dev/shm", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
	{"tmpfs", "/tmp", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
	{"tmpfs", "/run", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV},
}

func (m mount) mount() error {
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.fs, m.dir, m.fs, m.flags, m.opts); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.fs, m.dir, err)
	}
	return nil
}

func load() (*event.Plan, error) {
	b, err := os.ReadFile(event.PlanPath)
	if err != nil {
		return nil, err
	}
	plan := new(event.Plan)
	if err := json.Unmarshal(b, plan); err != nil {
		return nil, fmt.Errorf("%s: %w", event.PlanPath, err)
	}
	return plan, nil
}

// open opens the event port raw: the line discipline would turn each newline into two bytes.
func open(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag = unix.B115200 | unix.CS8 | unix.CLOCAL
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

func programs(plan *event.Plan, out *event.Writer) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	if err := out.Send(event.Event{
		Kind: event.Boot, Arch: runtime.GOARCH, Cmdline: strings.TrimSpace(string(cmdline)),
		Release: unix.ByteSliceToString(u.Release[:]), Version: unix.ByteSliceToString(u.Version[:]),
	}); err != nil {
		return err
	}
	if err := loopback(); err != nil {
		return err
	}
	for name, value := range plan.Sysctl {
		if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0); err != nil {
			return fmt.Errorf("sysctl: %w", err)
		}
	}
	for i := range plan.Programs {
		if err := runOne(&plan.Programs[i], out); err != nil {
			return err
		}
	}
	return out.Send(event.Event{Kind: event.End, Nonce: plan.Nonce, Count: len(plan.Programs)})
}

// loopback brings lo up; netdevice(7).
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}

// grace is what a Go program gets between SIGQUIT, which makes it print its goroutines, and SIGKILL.
const grace = 3 * time.Second

// runOne reports one program from Start to Exit. An error means that the port failed; whatever goes wrong with the
// program is in its Exit.
func runOne(p *event.Program, out *event.Writer) error {
	if err := out.Send(event.Event{Kind: event.Start, Program: p.Name}); err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	home := filepath.Join("/run", p.Name)
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	if err := os.Chown(home, p.UID, p.UID); err != nil {
		return err
	}
	cmd := exec.Command(p.Argv[0], p.Argv[1:]...)
	cmd.Dir = p.Dir
	cmd.Env = append([]string{"PATH=/bin", "HOME=" + home, "TMPDIR=/tmp", "LANG=C"}, p.Env...)
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Credential: &syscall.Credential{Uid: uint32(p.UID), Gid: uint32(p.UID)},
	}
	begin := time.Now()
	err = start(cmd, p.Deny)
	w.Close()
	exit := event.Event{Kind: event.Exit, Program: p.Name}
	if err != nil {
		r.Close()
		exit.Status = err.Error()
		return out.Send(exit)
	}

	// One goroutine reads until the last holder of the pipe is gone, another reaps; this one alone sends.
	chunks, done := make(chan []byte), make(chan unix.WaitStatus)
	go func() {
		defer close(chunks)
		for {
			b := make([]byte, 4096)
			n, err := r.Read(b)
			if n > 0 {
				chunks <- b[:n]
			}
			if err != nil {
				return
			}
		}
	}()
	go reap(cmd.Process.Pid, done)
	limit := time.After(p.Timeout)
	var kill <-chan time.Time
	for chunks != nil || done != nil {
		select {
		case b, ok := <-chunks:
			if !ok {
				chunks = nil
				break
			}
			if err := out.Send(event.Event{Kind: event.Output, Program: p.Name, Data: b}); err != nil {
				return err
			}
		case ws, ok := <-done:
			if !ok {
				done = nil // nothing is left alive
				break
			}
			exit.Status = status(ws)
			// Survivors would hold the pipe open and run into the next program.
			killAll(unix.SIGKILL)
		case <-limit:
			exit.Hung = true
			killAll(unix.SIGQUIT)
			kill = time.After(grace)
		case <-kill:
			killAll(unix.SIGKILL)
		}
	}
	r.Close()
	exit.Seconds = time.Since(begin).Seconds()
	return out.Send(exit)
}

// killAll signals every process but this one: so kill(2) defines -1 when PID 1 calls. There may be none.
func killAll(s syscall.Signal) { _ = unix.Kill(-1, s) }

// reap collects every child and orphan, as PID 1 must at all times: a test that waits for a process to be gone would
// wait for its zombie. It sends the status of main and closes done when no child is left. It takes the place of
// exec.Cmd.Wait.
func reap(main int, done chan<- unix.WaitStatus) {
	defer close(done)
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return // ECHILD
		case pid == main:
			done <- ws
		}
	}
}

// status is worded as os.ProcessState words it.
func status(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return "signal: " + ws.Signal().String()
	}
	return fmt.Sprintf("exit status %d", ws.ExitStatus())
}
