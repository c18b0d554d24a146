// Package vault keeps what the relay's system calls point at: one read-only page between two guard pages.
//
// After New nothing can write to the page without changing its protection first, which the relay's filter does not
// allow, and which Seal makes impossible where the kernel can. It does not hide the address: the page is readable.
package vault

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"syd/internal/policy"
)

// Offsets of the values in the page. The address comes first; sockaddr_un, the longest, has 110 bytes.
const (
	addrOffset   = 0
	oneOffset    = 128
	lingerOffset = 144
	zeroOffset   = lingerOffset | policy.LingerOff
)

// Vault gives the addresses of the values; they are valid until the process ends.
type Vault struct {
	region []byte // guard page, page, guard page
	length int
}

// New maps the vault with the socket address addr in it.
func New(addr []byte) (*Vault, error) {
	if len(addr) > oneOffset {
		return nil, fmt.Errorf("vault: an address of %d bytes", len(addr))
	}
	page := unix.Getpagesize()
	region, err := unix.Mmap(-1, 0, 3*page, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("vault: mmap: %w", err)
	}
	v := &Vault{region, len(addr)}
	middle := region[page : 2*page]
	if err := unix.Mprotect(middle, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return nil, fmt.Errorf("vault: mprotect: %w", err)
	}
	copy(middle[addrOffset:], addr)
	*(*int32)(unsafe.Pointer(&middle[oneOffset])) = 1
	*(*unix.Linger)(unsafe.Pointer(&middle[lingerOffset])) = unix.Linger{Onoff: 1}
	if err := unix.Mprotect(middle, unix.PROT_READ); err != nil {
		return nil, fmt.Errorf("vault: mprotect: %w", err)
	}
	return v, nil
}

// Seal makes the vault, guard pages and all, impossible to unmap, move or change for this process and those that it
// forks (mseal(2), Linux 6.10, on 64-bit kernels), and tries whether that is so.
func (v *Vault) Seal() error {
	if err := unix.Mseal(v.region, 0); err != nil {
		return err
	}
	page := unix.Getpagesize()
	middle := v.region[page : 2*page]
	if err := unix.Mprotect(middle, unix.PROT_READ|unix.PROT_WRITE); err != unix.EPERM {
		return fmt.Errorf("no effect: mprotect of the sealed page gives %v", err)
	}
	return nil
}

func (v *Vault) at(offset int) uintptr {
	return uintptr(unsafe.Pointer(&v.region[unix.Getpagesize()+offset]))
}

// Addr is the socket address for connect(2), AddrLen its length.
func (v *Vault) Addr() uintptr    { return v.at(addrOffset) }
func (v *Vault) AddrLen() uintptr { return uintptr(v.length) }

// Values for setsockopt(2): One is an int32, Linger a struct linger {1, 0}, which makes close(2) a reset, and Zero
// either of them with nothing but zeros.
func (v *Vault) One() uintptr    { return v.at(oneOffset) }
func (v *Vault) Zero() uintptr   { return v.at(zeroOffset) }
func (v *Vault) Linger() uintptr { return v.at(lingerOffset) }

// Region is the whole mapping with both guard pages: its start and length.
func (v *Vault) Region() (start, length uintptr) {
	return uintptr(unsafe.Pointer(&v.region[0])), uintptr(len(v.region))
}
