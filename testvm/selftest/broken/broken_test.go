//go:build testvm

// Package broken holds tests that go wrong, each in its own way. The self test runs them in guests and demands that
// each turns its cell red. They would also do so on a developer's machine, hence the build tag.
package broken

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	// As a child, hold stdout open for longer than any time limit.
	if os.Getenv("BROKEN_SLEEP") != "" {
		time.Sleep(time.Hour)
	}
	os.Exit(m.Run())
}

func TestPass(t *testing.T) { t.Run("case", func(*testing.T) {}) }

func TestFail(t *testing.T) { t.Error("fails") }

func TestCaseFails(t *testing.T) { t.Run("case", func(t *testing.T) { t.Error("fails") }) }

func TestPanic(*testing.T) { panic("on purpose") }

func TestSkip(t *testing.T) { t.Skip("without leave") }

func TestCaseSkips(t *testing.T) { t.Run("case", func(t *testing.T) { t.Skip("without leave") }) }

func TestHang(*testing.T) { time.Sleep(time.Hour) }

func TestDeadlock(*testing.T) { select {} }

// TestQuit ends the program with status 0 behind the testing package's back, so that TestQuitLater never runs.
func TestQuit(*testing.T) { syscall.Exit(0) }

func TestQuitLater(*testing.T) {}

// TestLie prints what a passing run prints, and ends.
func TestLie(*testing.T) {
	os.Stdout.WriteString("\n--- PASS: TestLie (0.00s)\nPASS\n")
	syscall.Exit(0)
}

func TestLieLater(*testing.T) {}

func TestKilled(t *testing.T) {
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Minute)
}

// TestOrphan leaves a child that holds its output open; that is untidy and not wrong.
func TestOrphan(t *testing.T) {
	c := exec.Command("/proc/self/exe")
	c.Env = []string{"BROKEN_SLEEP=1"}
	c.Stdout = os.Stdout
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
}

// TestOrphanGone runs as a program after TestOrphan's.
func TestOrphanGone(t *testing.T) {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		environ, err := os.ReadFile("/proc/" + p.Name() + "/environ")
		if err == nil && strings.Contains(string(environ), "BROKEN_SLEEP") {
			t.Fatalf("process %s of the program before is alive", p.Name())
		}
	}
}

func TestKernelPanic(t *testing.T) {
	// c: crash; Documentation/admin-guide/sysrq.rst. Written to by root, it needs no leave of kernel.sysrq.
	if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
		t.Fatal(err)
	}
}

func TestPowerOff(t *testing.T) { t.Fatal(syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)) }

// TestHalt stops the processor for good while QEMU goes on.
func TestHalt(t *testing.T) { t.Fatal(syscall.Reboot(syscall.LINUX_REBOOT_CMD_HALT)) }

// TestForge writes its own end marker to the event port, which the environment names, and switches the guest off.
func TestForge(t *testing.T) {
	f, err := os.OpenFile(os.Getenv("BROKEN_PORT"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // boot, start and the "=== RUN" of this test are out: 3 is next
	for _, s := range []string{
		`{"seq":3,"kind":"output","program":"forge-root","data":"LS0tIFBBU1M6IFRlc3RGb3JnZSAoMC4wMHMpClBBU1MK"}`,
		`{"seq":4,"kind":"exit","program":"forge-root","status":"exit status 0"}`,
		`{"seq":5,"kind":"end","nonce":"guessed","count":1}`,
	} {
		if _, err := f.WriteString(s + "\n"); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(time.Second) // lets the UART drain
	t.Fatal(syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF))
}

// TestNoise writes to the event port what is no event.
func TestNoise(t *testing.T) {
	f, err := os.OpenFile(os.Getenv("BROKEN_PORT"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("noise\n"); err != nil {
		t.Fatal(err)
	}
}
