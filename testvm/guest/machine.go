package guest

// Machine is how QEMU is started for one kernel architecture.
type Machine struct {
	QEMU    string   // its program
	Args    []string // board and processor, and where the two serial ports go
	Console string   // for the kernel's console=
	Port    string   // device of the event port in the guest
	Cmdline string   // what this architecture adds to the kernel's command line
	Memory  string   // MiB; the kernel sizes its limit for TCP's memory by it, and resets connections beyond
}

// common goes to every machine. TCG always: a /dev/kvm that exists may still be unable to run a stock kernel.
var common = []string{
	"-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot", "-smp", "1",
}

// isa and pci are the two ways to the event port. Both ports are 16550s, whose driver every Debian kernel has built
// in; virtio consoles are modules in 6.1. Boards without a second port of their own take one on PCI.
var (
	isa = []string{"-serial", "chardev:console", "-serial", "chardev:events"}
	pci = []string{"-serial", "chardev:console", "-device", "pci-serial,chardev=events"}
)

// Machines is keyed by Debian's name of the kernel's architecture.
//
//   - erms=off: "rep movsb" is emulated byte by byte; bulk copies are nine times faster without. fsrm=off goes with it:
//     memmove in Linux 6.1 takes the one to imply the other, and amd64 6.1 never boots.
//   - kpti=0: system calls take 1.3 µs instead of 23. cortex-a57 because "max" boots two seconds slower.
//   - highmem=off: a kernel without LPAE cannot reach a PCI configuration space above 4 GiB.
var Machines = map[string]Machine{
	"amd64": {
		QEMU: "qemu-system-x86_64", Args: append([]string{"-M", "pc", "-cpu", "max,erms=off,fsrm=off"}, isa...),
		Console: "ttyS0", Port: "/dev/ttyS1", Memory: "1024",
	},
	"i386": {
		QEMU: "qemu-system-i386", Args: append([]string{"-M", "pc", "-cpu", "max,erms=off"}, isa...),
		Console: "ttyS0", Port: "/dev/ttyS1", Memory: "1024",
	},
	"arm64": {
		QEMU: "qemu-system-aarch64", Args: append([]string{"-M", "virt", "-cpu", "cortex-a57"}, pci...),
		Console: "ttyAMA0", Port: "/dev/ttyS0", Cmdline: "kpti=0", Memory: "1024",
	},
	"armhf": {
		QEMU: "qemu-system-arm", Args: append([]string{"-M", "virt,highmem=off", "-cpu", "cortex-a15"}, pci...),
		Console: "ttyAMA0", Port: "/dev/ttyS0", Memory: "1024",
	},
	"riscv64": {
		QEMU: "qemu-system-riscv64", Args: append([]string{"-M", "virt"}, pci...),
		Console: "ttyS0", Port: "/dev/ttyS1", Memory: "1024",
	},
}
