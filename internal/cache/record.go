package cache

import "time"

// A record is a session in a shard's arena, in words of 8 bytes:
//
//	0        end (44 bits), size - 1 (16), flags (4)
//	1        start (44 bits), mark (8), length of the ID (12)
//	2        when it was last used
//	3…       the ID, and right behind it the session
//	the last 2, of a large session: its tag
//
// Times are milliseconds since 1970.
const headerWords = 3

// largeSize is the size from which sessions have their tag with them: to hash so much
// takes half a microsecond, and the 16 bytes are little beside it.
const (
	largeSize = 1 << 10
	tagWords  = 2
)

const (
	flagFree = 1 << iota // a free piece of the arena, not a record
	flagKeep             // moves rather than being evicted when the tail reaches it
)

const (
	freeShift  = 4
	endShift   = 20
	sizeShift  = 4
	startShift = 20
	markShift  = 12
	idMask     = 1<<markShift - 1
)

// maxTime is the last end or start that fits into 44 bits: the year 2527.
const maxTime = 1<<44 - 1

// ref is where a record is: the number of its first word in the arena. 0 is
// none.
type ref uint32

// milliseconds is a time as records have it, rounded down.
func milliseconds(t time.Time) int64 { return min(max(t.UnixMilli(), 0), maxTime) }

// recordWords is how many words a record takes.
func recordWords(idSize, size int) int {
	n := headerWords + (idSize+size+7)/8
	if size >= largeSize {
		n += tagWords
	}
	return n
}

func (s *shard) end(r ref) int64      { return int64(s.words[r] >> endShift) }
func (s *shard) size(r ref) int       { return int(uint16(s.words[r]>>sizeShift)) + 1 }
func (s *shard) idSize(r ref) int     { return int(s.words[r+1] & idMask) }
func (s *shard) lastUsed(r ref) int64 { return int64(s.words[r+2]) }

// id is the record's session ID, in the arena.
func (s *shard) id(r ref) []byte {
	at := (int(r) + headerWords) * wordSize
	return s.bytes[at : at+s.idSize(r)]
}

// data is the record's session, in the arena.
func (s *shard) data(r ref) []byte {
	at := (int(r)+headerWords)*wordSize + s.idSize(r)
	return s.bytes[at : at+s.size(r)]
}

// tag is the tag of a large session, or zero.
func (s *shard) tag(r ref) Tag {
	if s.size(r) < largeSize {
		return Tag{}
	}
	behind := int(r) + s.length(r)
	return Tag{s.words[behind-2], s.words[behind-1]}
}

func (s *shard) entry(r ref) Entry {
	return Entry{
		Size:      s.size(r),
		StoredAt:  Time(s.words[r+1] >> startShift),
		ExpiresAt: Time(s.end(r)),
		Mark:      uint8(s.words[r+1] >> markShift),
		Tag:       s.tag(r),
	}
}

// session is what is stored under an ID.
type session struct {
	data       []byte
	tag        Tag   // of large ones alone
	start, end int64 // in milliseconds
	mark       uint8
}

// write makes a record of the session at r, where there is room for it.
func (s *shard) write(r ref, id *ID, x *session) {
	s.words[r+1] = uint64(id.n)
	s.set(r, x)
	copy(s.id(r), id.b[:id.n])
}

// set writes the session into a record that has the ID, and is as long as need be.
func (s *shard) set(r ref, x *session) {
	s.words[r] = uint64(x.end)<<endShift | uint64(len(x.data)-1)<<sizeShift
	s.words[r+1] = uint64(x.start)<<startShift | uint64(x.mark)<<markShift | s.words[r+1]&idMask
	copy(s.data(r), x.data)
	if len(x.data) >= largeSize {
		behind := int(r) + s.length(r)
		s.words[behind-2], s.words[behind-1] = x.tag.hi, x.tag.lo
	}
}
