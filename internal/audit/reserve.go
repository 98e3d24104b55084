package audit

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// reserve is how much of the disk the log keeps for changes, in bytes, allocated
// behind the end of its file: a full disk, which others can cause, must not keep a
// key from being revoked or a policy from being reloaded. It takes some thousand
// lines.
const reserve = 1 << 20

// spares is how much of the reserve the event leaves untouched. The last quarter is
// for changes that no request makes: a policy, for instance, that stops who sends them.
func (e Event) spares() int64 {
	switch {
	case e.Outcome == Denied || e.Outcome == Exported:
		return reserve
	case e.RequestID != "":
		return reserve / 4
	}
	return 0
}

// allocated makes sure that the disk has size bytes for the file behind its end, if
// it is a file on a disk, of a file system that can. It is the caller's turn.
func (l *Log) allocated(end, size int64) error {
	if l.info == nil || !l.info.Mode().IsRegular() || end+size <= l.room {
		return nil
	}
	switch err := allocate(l.file, end, size); {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return err
	case err == nil:
		l.room = end + size
	}
	return nil // also where nothing can be allocated, and so nothing is reserved
}

// takeReserve allocates the reserve of a file that was opened or truncated, or what
// the disk has of it. It is the caller's turn.
func (l *Log) takeReserve() {
	end, err := l.file.Seek(0, io.SeekEnd)
	l.end, l.room = end, 0
	for size := int64(reserve); err == nil && size > 0 && l.allocated(end, size) != nil; {
		size -= reserve / 8
	}
}

// allowed makes room for a line of an event that spares so much of the reserve, and
// says whether there is. What was allocated is not known of a file that was full
// when it was opened: a change goes by what comes of writing it.
func (l *Log) allowed(end, line, spares int64) error {
	if end < l.end { // it was truncated, and what was allocated is gone
		l.takeReserve()
	}
	l.end = end
	err := l.allocated(end, line+spares)
	if spares == reserve || spares > 0 && l.room > 0 {
		return err
	}
	return nil
}

// giveBack frees what is allocated behind the end of a file that no more is written
// to.
func giveBack(file *os.File, info os.FileInfo) {
	if info == nil || !info.Mode().IsRegular() {
		return
	}
	if end, err := file.Seek(0, io.SeekEnd); err == nil {
		_ = file.Truncate(end) // it stays allocated then, no more
	}
}
