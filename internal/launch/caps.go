package launch

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// capSet holds one bit for each capability.
type capSet uint64

func (c capSet) has(capability int) bool { return c>>capability&1 == 1 }

// effective returns the capabilities of the calling thread.
func effective() (capSet, error) {
	data, err := capget()
	return capSet(data[0].Effective) | capSet(data[1].Effective)<<32, err
}

var capHeader = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}

func capget() (data [2]unix.CapUserData, err error) {
	h := capHeader
	if err := unix.Capget(&h, &data[0]); err != nil {
		return data, fmt.Errorf("capget: %w", err)
	}
	return data, nil
}

// securebits: uid 0 gives no capabilities, nothing is made ambient again, and that is final. SECURE_* of
// linux/securebits.h, each with its lock bit, but SECURE_KEEP_CAPS, of which the lock alone is set.
const securebits = 0x1 | 0x2 | // SECURE_NOROOT
	0x4 | 0x8 | // SECURE_NO_SETUID_FIXUP
	0x20 | // SECURE_KEEP_CAPS_LOCKED
	0x40 | 0x80 // SECURE_NO_CAP_AMBIENT_RAISE

// dropCapabilities empties all five capability sets of the calling thread for good, and verifies it. Requires:
// CAP_SETPCAP, unless there is nothing to drop.
func dropCapabilities() error {
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, securebits, 0, 0, 0); err != nil {
		return fmt.Errorf("securebits: %w", err)
	}
	last := 0
	for ; ; last++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(last), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) && last > 0 {
			break // the kernel knows no more
		}
		if err != nil {
			return fmt.Errorf("bounding set, capability %d: %w", last, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("ambient set: %w", err)
	}
	h, none := capHeader, [2]unix.CapUserData{}
	if err := unix.Capset(&h, &none[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return verifyNone(last)
}

// verifyNone fails if a capability is left in any set. An empty permitted set implies an empty ambient one.
func verifyNone(last int) error {
	left, err := capget()
	if err != nil {
		return err
	}
	if left != [2]unix.CapUserData{} {
		return fmt.Errorf("capabilities are left: %x", left)
	}
	for c := range last {
		bounding, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if err != nil || bounding != 0 {
			return fmt.Errorf("capability %d is left in the bounding set (%v)", c, err)
		}
	}
	return nil
}
