package bench

import (
	"os"
	"runtime"
	"strings"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// Machine names what the figures hold for, and nothing that identifies a particular one.
type Machine struct {
	CPU         string
	Cores       int
	CacheKiB    string `json:",omitempty"`
	MemoryGiB   float64
	Kernel      string
	Arch        string
	Go          string
	Virtual     bool   // runs under a hypervisor
	Descriptors uint64 // hard limit per process
	PipePages   string // fs.pipe-user-pages-soft
	Load        float64
}

func describe() Machine {
	m := Machine{Arch: runtime.GOARCH, Go: runtime.Version(), Cores: len(cpus()), Descriptors: raiseDescriptors()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		// The part that names the version, without what a builder appended.
		m.Kernel, _, _ = strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	}
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return m
	}
	if info, err := fs.CPUInfo(); err == nil && len(info) > 0 {
		m.CPU, m.CacheKiB = info[0].ModelName, info[0].CacheSize
		for _, f := range info[0].Flags {
			m.Virtual = m.Virtual || f == "hypervisor"
		}
	}
	if mem, err := fs.Meminfo(); err == nil && mem.MemTotal != nil {
		m.MemoryGiB = float64(*mem.MemTotal) / (1 << 20)
	}
	if l, err := fs.LoadAvg(); err == nil {
		m.Load = l.Load1
	}
	if b, err := os.ReadFile("/proc/sys/fs/pipe-user-pages-soft"); err == nil {
		m.PipePages = strings.TrimSpace(string(b))
	}
	return m
}
