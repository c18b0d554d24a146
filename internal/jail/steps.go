// Package jail takes from the relay, and then from the monitor, everything that their work does not need.
//
// What it does is one ordered table, Steps: each row has a name, a reason, the kernel that brought it, and whether
// syd-tor(1) runs without it. A step counts as held only if its effect was seen, by a call that must fail
// afterwards or by what the kernel tells of the process, wherever there is such a sign. A required step that does
// not hold ends the program before the first connection; any other is reported. Nothing is left off silently.
//
// What it does not do: guard against the kernel itself, or against whoever may trace the monitor.
//
// Read the table first, then program.go, which is the part that runs in the relay; relay.go has the steps that are
// carried out there, monitor.go those of the monitor, inspect.go looks at the result, and report.go tells it.
package jail

import (
	"golang.org/x/sys/unix"
)

// StepID is a row of Steps.
type StepID int

const (
	mdwe StepID = iota
	vaultSeal
	userNS
	mountNS
	pidNS
	ipcNS
	utsNS
	cgroupNS
	netNS
	handshake
	identity
	workdir
	parentDeath
	root
	rlimits
	memory
	vdso
	seal
	bounding
	capabilities
	dumpable
	noNewPrivs
	landlockFS
	landlockTCP
	landlockScope
	landlockUnix
	landlockUDP
	descriptors
	tsc
	seccomp
	monitorFiles
	monitorLandlock
	monitorPrivileges
	monitorSeccomp
	numSteps
)

// Where tells in which process and when a step is carried out.
type Where string

const (
	Before Where = "monitor, before the fork"
	Clone  Where = "clone"
	Child  Where = "relay"
	After  Where = "monitor, after the fork"
)

// Never is the Since of a step that the architecture does not have.
const Never = "never"

// Step is one row of the table.
type Step struct {
	Name     string // as --without takes it
	What     string
	Since    string // the first kernel that has it; Never: none on this architecture
	Where    Where
	Required bool
	Always   bool     // the relay cannot work without it: it cannot be left off
	Needs    []StepID // where one of them is missing, this one is left off

	flag  uintptr                      // of clone(2), where Where is Clone
	build func(*Jail, *builder) error  // of a Child step: appends its calls; or notes why there are none
	apply func(*Jail) error            // of a Before or After step
	check func(*Jail, *Prisoner) error // looks at the relay from outside, once it has come to the inspection
	late  func(*Prisoner) error        // the same, once it is confined
}

// Steps lists every step in the order in which they are carried out. The order matters: identity comes before
// what a change of identity would undo (parent-death, dumpable), mounts and the bounding set before the
// capabilities that they take, Landlock after the mounts that it forbids, and seccomp last.
var Steps = [numSteps]Step{
	mdwe: {Name: "mdwe", Since: "6.3", Where: Before, apply: (*Jail).setMDWE, build: (*Jail).tryExec,
		What: "no memory becomes executable, in monitor and relay (PR_SET_MDWE)"},
	vaultSeal: {Name: "vault", Since: "6.10", Where: Before, apply: (*Jail).sealVault,
		What: "the external address is sealed between its guard pages (mseal)"},

	userNS: {Name: "userns", Since: "3.8", Where: Clone, flag: unix.CLONE_NEWUSER, check: inNamespace("user"),
		What: "own user namespace: capabilities reach nothing outside"},
	mountNS: {Name: "mountns", Since: "2.4.19", Where: Clone, flag: unix.CLONE_NEWNS, check: inNamespace("mnt"),
		What: "own mount namespace"},
	pidNS: {Name: "pidns", Since: "2.6.24", Where: Clone, flag: unix.CLONE_NEWPID, check: inNamespace("pid"),
		What: "own PID namespace: no other process has a number"},
	ipcNS: {Name: "ipcns", Since: "2.6.19", Where: Clone, flag: unix.CLONE_NEWIPC, check: inNamespace("ipc"),
		What: "own IPC namespace"},
	utsNS: {Name: "utsns", Since: "2.6.19", Where: Clone, flag: unix.CLONE_NEWUTS, check: inNamespace("uts"),
		What: "own UTS namespace"},
	cgroupNS: {Name: "cgroupns", Since: "4.6", Where: Clone, flag: unix.CLONE_NEWCGROUP, check: inNamespace("cgroup"),
		What: "own cgroup namespace"},
	netNS: {Name: "netns", Since: "2.6.24", Where: Clone, flag: unix.CLONE_NEWNET, check: inNamespace("net"),
		What: "own network namespace, for an external socket with a path"},

	handshake: {Name: "handshake", Where: Child, Required: true, Always: true, build: (*Jail).await,
		What: "wait until the monitor has written the identity maps"},
	identity: {Name: "identity", Where: Child, Required: true, build: (*Jail).takeIdentity, check: (*Jail).checkIdentity,
		What: "if root started it: nobody's user and group, and no supplementary group but the external socket's; otherwise its own"},
	workdir: {Name: "workdir", Where: Child, Required: true, build: (*Jail).changeDir,
		What: "the working directory is the external socket's, or the root"},
	parentDeath: {Name: "parent-death", Where: Child, Required: true, build: (*Jail).dieWithParent,
		What: "killed when the monitor dies (PR_SET_PDEATHSIG)"},
	root: {Name: "root", Where: Child, Needs: []StepID{mountNS}, build: (*Jail).pivot, check: (*Jail).checkRoot,
		What: "the root is empty, or the external socket's directory, and read-only (pivot_root)"},
	rlimits: {Name: "rlimits", Where: Child, Required: true, build: (*Jail).limit, check: (*Jail).checkLimits,
		What: "no process, file or core can be made; descriptors as counted (prlimit)"},
	memory: {Name: "memory", Where: Child, Required: true, build: (*Jail).unmap, check: (*Jail).checkMemory,
		What: "the monitor's heap, stacks, arguments and environment are unmapped"},
	vdso: {Name: "vdso", Where: Child, build: (*Jail).unmapVDSO, check: (*Jail).checkVDSO,
		What: "the kernel's own pages, a coarse clock among them, are unmapped"},
	seal: {Name: "seal", Since: "6.10", Where: Child, build: (*Jail).sealMemory,
		What: "the memory that is left can be neither unmapped nor changed (mseal)"},
	bounding: {Name: "bounding", Where: Child, build: (*Jail).dropBounding, check: (*Jail).checkBounding,
		What: "the capability bounding set is empty, the securebits are locked"},
	capabilities: {Name: "capabilities", Where: Child, Required: true, build: (*Jail).dropCapabilities, check: (*Jail).checkCapabilities,
		What: "no effective, permitted, inheritable or ambient capability"},
	dumpable: {Name: "dumpable", Where: Child, Required: true, build: (*Jail).hide,
		What: "its memory is shown and dumped to nobody (PR_SET_DUMPABLE)"},
	noNewPrivs: {Name: "no-new-privs", Since: "3.5", Where: Child, Required: true, build: (*Jail).renounce, late: checkNoNewPrivs,
		What: "no program gives it a privilege (PR_SET_NO_NEW_PRIVS)"},
	landlockFS: {Name: "landlock-fs", Since: "5.13", Where: Child, Needs: []StepID{noNewPrivs}, build: (*Jail).landlockFS,
		What: "Landlock: no access to any file or directory"},
	landlockTCP: {Name: "landlock-tcp", Since: "6.7", Where: Child, Needs: []StepID{noNewPrivs}, build: (*Jail).landlockTCP,
		What: "Landlock: TCP connects to the external port alone, and binds to none"},
	landlockScope: {Name: "landlock-scope", Since: "6.12", Where: Child, Needs: []StepID{noNewPrivs}, build: (*Jail).landlockScope,
		What: "Landlock: no signal and no abstract UNIX socket of another process"},
	landlockUnix: {Name: "landlock-unix", Since: "7.1", Where: Child, Needs: []StepID{noNewPrivs}, build: (*Jail).landlockUnix,
		What: "Landlock: no UNIX socket with a path but in the external one's directory"},
	landlockUDP: {Name: "landlock-udp", Since: "7.2", Where: Child, Needs: []StepID{noNewPrivs}, build: (*Jail).landlockUDP,
		What: "Landlock: no UDP"},
	descriptors: {Name: "descriptors", Since: "5.9", Where: Child, Required: true, Always: true, build: (*Jail).checkClosed, late: checkDescriptors,
		What: "listener, epoll instance, owner and monitor are the only descriptors (close_range)"},
	tsc: {Name: "tsc", Since: tscSince, Where: Child, Required: tscRequired, build: (*Jail).denyCounter,
		What: "reading the time stamp counter kills (PR_SET_TSC)"},
	seccomp: {Name: "seccomp", Since: "3.17", Where: Child, Required: true, Needs: []StepID{noNewPrivs}, build: (*Jail).filter, late: checkSeccomp,
		What: "a system call outside the policy kills (seccomp)"},

	monitorFiles: {Name: "monitor-files", Where: After, Required: true, apply: (*Jail).closeSockets,
		What: "the monitor keeps no socket but those to its relays and to the owner"},
	monitorLandlock: {Name: "monitor-landlock", Since: "5.13", Where: After, apply: (*Jail).restrictMonitor,
		What: "the monitor opens no file and no connection (Landlock)"},
	monitorPrivileges: {Name: "monitor-privileges", Where: After, Required: true, apply: (*Jail).dropPrivileges,
		What: "the monitor has no capability and is not dumpable"},
	monitorSeccomp: {Name: "monitor-seccomp", Since: "3.17", Where: After, Required: true, apply: (*Jail).filterMonitor,
		What: "the monitor can wait, write lines, and end; any other system call kills it (seccomp)"},
}
